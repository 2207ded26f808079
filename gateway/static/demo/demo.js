/** The page of a made-up case: what any page does that embeds the widget, and buttons that make something happen. */

const calls = document.querySelector("callwatch-calls");
const heading = document.querySelector("#case");
const said = document.querySelector("#said");
const OUTAGE_AFTER = 6_000; // milliseconds: six calls are to be seen first

/** @param {string} path @param {object} body */
async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.json();
}

/** Load a case as a page of the product does: its back end triggers, the widget follows. @param {string} id @param {string} scene */
async function open(id, scene) {
  const place = new URL(location.href);
  place.searchParams.set("case", id);
  place.searchParams.set("scene", scene);
  history.replaceState(null, "", place);
  said.textContent = "正在加载…";
  try {
    const { case_id, parties } = await post("demo/load", { case_id: id, scene });
    heading.textContent = `案件 ${case_id}`;
    document.querySelector("#parties").replaceChildren(
      ...parties.map(({ role, name, person_id }) => {
        const row = document.createElement("tr");
        row.append(...[role, name, person_id].map((text) => Object.assign(document.createElement("td"), { textContent: text })));
        return row;
      }),
    );
    calls.parties = parties;
    calls.setAttribute("token-url", `demo/token?case=${case_id}`);
    calls.setAttribute("case-id", case_id);
    said.textContent = "案件已加载,后端已发起外呼。";
    if (scene === "away") setTimeout(() => post("demo/outage", {}).catch(() => {}), OUTAGE_AFTER);
  } catch {
    said.textContent = "模拟的上游没有应答,请稍后再试。";
  }
}

document.querySelector(".buttons").addEventListener("click", (event) => {
  const scene = event.target.dataset?.scene;
  if (scene) open(`C-4${String(Math.floor(Math.random() * 900) + 100)}`, scene);
});

const asked = new URL(location.href).searchParams;
open(asked.get("case") ?? "C-4001", asked.get("scene") ?? "talk");
