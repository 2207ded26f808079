/** The visible parts: bubbles, the icon shown while minimised, notices (S32, S33, S35). */
/** @import { Notice, Shown } from "./types.js" */

import * as texts from "./texts.js";

const BUBBLES = 5; // a button shows the others
const FADES = 200; // milliseconds
const HEARD = 5_000; // time for a screen reader to read a change
const STAYS = 10_000; // time that a notice is shown
const LINGERS = 3_000; // more time after pointer or focus
const SPREAD = 150; // tabs claim a notice at random times
const AGREED = 50; // after that all tabs see the claim
const REMEMBERED = 200; // notices per browser
const MINIMISED = "callwatch-minimised";
const NOTICE = "callwatch-notice:";
const ME = `${Math.random()}`;

const PICTURES = {
  robot: "M12 3v4M5 7h14a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2zM9 12v2M15 12v2M9 17h6",
  minimise: "M5 19h14",
  close: "M6 6l12 12M18 6L6 18",
  error: "M12 3a9 9 0 1 0 .01 0zM9 9l6 6M15 9l-6 6",
  warning: "M12 4L2 20h20zM12 10v4M12 17v.01",
};

/** CSP blocks style elements, not constructed sheets. */
export const sheet = new CSSStyleSheet();

sheet.replaceSync(`
:host { display: contents }
:host([hidden]), [hidden] { display: none !important }
.layer {
  all: initial; display: block; position: fixed; inset: 0; width: auto; height: auto; border: 0; padding: 0; overflow: visible;
  background: none; pointer-events: none; z-index: var(--callwatch-z-index, 1000); overflow-wrap: anywhere; color: #fff;
  font: 14px/1.5 var(--callwatch-font, system-ui, "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei", sans-serif);
}
.dock, .notices, .head, .notice, .list { display: flex; gap: 8px }
.dock, .notices { position: absolute; flex-direction: column; max-width: calc(100vw - 24px) }
.dock {
  right: clamp(8px, 100vw - 320px, var(--callwatch-right, 20px)); bottom: min(var(--callwatch-bottom, 80px), 15vh);
  width: var(--callwatch-width, 300px); max-height: 82vh; align-items: flex-end; gap: 10px;
}
.dock > *, .notice { pointer-events: auto }
.list {
  flex-direction: column-reverse; gap: 10px; align-self: stretch; min-height: 0; max-height: 70vh; overflow: hidden auto;
  margin: -8px; padding: 8px; list-style: none;
}
.bubble, .icon { position: relative; background: linear-gradient(135deg, #1a6fb8, #0d4a8a); box-shadow: 0 2px 6px #0006 }
.bubble { padding: 12px 16px; border-radius: 12px }
.stale { background: linear-gradient(135deg, #5c6773, #3d4650); box-shadow: none }
.bubble, .notice, svg, .dot { flex: none }
.head { align-items: center; font-size: 16px; font-weight: 600 }
b, .notice span { flex: 1; font-weight: inherit }
.dot { width: 8px; height: 8px; border-radius: 50%; background: #73d13d; animation: pulse 2s infinite }
.stale .dot { background: #bfbfbf; animation: none }
time { font-variant-numeric: tabular-nums }
p { margin: 4px 0 0 }
svg { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round }
button { display: grid; place-items: center; margin: 0; border: 0; padding: 0; font: inherit; color: inherit; cursor: pointer }
button:focus-visible { outline: 3px solid #ffd666; outline-offset: -1px; box-shadow: inset 0 0 0 5px #003a70 }
.square { width: 28px; height: 28px; border-radius: 6px; background: #fff0 }
.square:hover { background: #7774 }
.line { padding: 4px 12px; border: 1px solid #8c8c8c; border-radius: 16px; background: #fff; color: #262626 }
.icon { width: 56px; height: 56px; border-radius: 50% }
.badge {
  position: absolute; top: -2px; right: -2px; min-width: 10px; padding: 0 4px; border-radius: 9px; background: #cf1322;
  font: 700 12px/18px sans-serif; text-align: center;
}
.notices { top: var(--callwatch-top, 16px); left: 50%; transform: translateX(-50%); width: 480px; max-height: 60vh; overflow: hidden auto }
.notice { padding: 6px 8px; border: 1px solid; border-left-width: 6px; border-radius: 8px }
.notice > svg { margin: 4px }
.notice span { padding: 3px 0 }
.error { border-color: #cf1322; background: #fff1f0; color: #820014 }
.warning { border-color: #ad6800; background: #fff7e6; color: #613400 }
.heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
.leaving { opacity: 0; transition: opacity .2s }
@media (max-width: 1120px) { .notices { left: 12px; transform: none; max-width: calc(100vw - 352px) } }
@media (max-width: 700px) { .notices { top: 8px; max-width: calc(100vw - 24px); max-height: 22vh } .list { max-height: 40vh } }
@media print { .layer { display: none } }
@keyframes pulse { 50% { opacity: .4 } }
@media (prefers-reduced-motion: reduce) { .dot { animation: none } }
@media (forced-colors: active) { .bubble, .icon, .square, .badge { border: 1px solid } .dot { background: CanvasText; forced-color-adjust: none } }
`);

/** @param {string} tag @param {Record<string, string>} attributes @param {(Node | string)[]} children */
export function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string} part @param {string} style @param {Record<string, string>} more @param {Node[]} children */
const button = (part, style, more, ...children) => make("button", { type: "button", part, class: style, ...more }, ...children);

/** @param {keyof typeof PICTURES} name @param {string} size in pixels */
function picture(name, size) {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const side of ["width", "height"]) svg.setAttribute(side, size);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PICTURES[name]);
  svg.append(path);
  return svg;
}

/** Write a text if it differs. @param {Node} node @param {string} text */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A call. */
class Bubble {
  said = "";
  time = make("time", { role: "timer" });
  minimise = button("minimise", "square", { "aria-label": texts.MINIMISE }, picture("minimise", "16"));
  #who = make("p", {});
  #state = make("p", {});

  /** @param {Shown} call */
  constructor(call) {
    this.call = call;
    const head = [picture("robot", "20"), make("b", {}, texts.WORKING), make("span", { class: "dot" }), this.minimise];
    const lines = [make("div", { class: "head" }, ...head), this.#who, this.#state, make("p", {}, texts.LASTED, this.time)];
    this.li = make("li", { class: "bubble", part: "bubble", "data-job-id": call.job_id }, ...lines);
  }

  /** Return the text for screen readers. */
  update(/** @type {Shown} */ call) {
    this.call = call;
    this.li.classList.toggle("stale", call.stale);
    say(this.#who, texts.talking(call.name));
    say(this.#state, texts.status(call.label));
    return `${texts.talking(call.name)} ${texts.status(call.label)}`;
  }

  /** Return the seconds until the duration changes. */
  tick(/** @type {number} */ now) {
    const lasted = now - this.call.since;
    if (this.call.stale && this.time.textContent) return Infinity; // stopped
    say(this.time, texts.duration(lasted));
    this.time.setAttribute("datetime", `PT${Math.max(0, Math.trunc(lasted))}S`);
    return 1 - (lasted - Math.floor(lasted));
  }
}

export class Dock {
  #now;
  /** @type {Map<string, Bubble>} */
  #bubbles = new Map();
  #isMinimised = stored(() => sessionStorage.getItem(MINIMISED)) === "1";
  #showsAll = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #heard = make("div", { class: "heard", role: "status", "aria-atomic": "false" });
  #list = make("ul", { class: "list", role: "list" });
  #interrupted = button("stale", "line warning", {});
  #more = button("more", "line", { "aria-expanded": "false" });
  #badge = make("span", { class: "badge", "aria-hidden": "true" });
  #icon = button("icon", "icon", { "aria-expanded": "false" }, picture("robot", "28"), this.#badge);
  #dock = make("section", { class: "dock", part: "dock", "aria-label": texts.REGION }, this.#interrupted, this.#more, this.#list, this.#icon);
  nodes = [this.#dock, this.#heard];

  /** @param {() => number} now the server's time (epoch seconds) @param {() => void} retry */
  constructor(now, retry) {
    this.#now = now;
    this.#interrupted.addEventListener("click", retry);
    this.#icon.addEventListener("click", () => this.#minimise(false));
    this.#more.addEventListener("click", () => {
      this.#showsAll = true;
      this.#arrange();
      [...this.#bubbles.values()][BUBBLES].minimise.focus();
    });
    this.#dock.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // a dialog of the page stays open
      this.#minimise(true);
    });
  }

  /**
   * Show these calls, the first at the bottom.
   * @param {Shown[]} calls
   * @param {string} interrupted the line to show, empty if no call is stale
   * @param {Map<string, string>} ended labels of calls that have ended
   */
  render(calls, interrupted, ended) {
    let isLost = false; // the focus, by removing a bubble
    const before = this.#bubbles;
    let there = this.#list.firstElementChild;
    this.#bubbles = new Map();
    for (const call of calls) {
      const bubble = before.get(call.job_id) ?? this.#enter(call);
      before.delete(call.job_id);
      this.#bubbles.set(call.job_id, bubble);
      const said = bubble.update(call);
      if (said !== bubble.said) this.#tell((bubble.said = said));
    }
    for (const { li, call } of before.values()) {
      const label = ended.get(call.job_id);
      if (label) this.#tell(`${texts.talking(call.name)} ${texts.status(label)}`);
      isLost ||= li.matches(":focus-within");
      li.className += " leaving";
      li.removeAttribute("part");
      li.inert = true;
      const isSeen = calls.length && !matchMedia("(prefers-reduced-motion: reduce)").matches;
      setTimeout(() => li.remove(), isSeen ? FADES : 0);
    }
    for (const { li } of this.#bubbles.values()) {
      while (there?.matches(".leaving")) there = there.nextElementSibling;
      if (there === li) there = li.nextElementSibling;
      else this.#list.insertBefore(li, there);
    }
    if (interrupted && interrupted !== this.#interrupted.textContent) this.#tell(interrupted);
    say(this.#interrupted, interrupted);
    this.#arrange();
    if (isLost) this.#focus();
  }

  #enter(/** @type {Shown} */ call) {
    const bubble = new Bubble(call);
    bubble.minimise.addEventListener("click", () => this.#minimise(true));
    return bubble;
  }

  #arrange() {
    const bubbles = [...this.#bubbles.values()];
    const count = bubbles.length;
    this.#showsAll &&= count > BUBBLES;
    const rest = this.#showsAll ? 0 : Math.max(0, count - BUBBLES);
    bubbles.forEach(({ li }, place) => (li.hidden = place >= count - rest));
    say(this.#more, texts.more(rest));
    say(this.#badge, `${count}`);
    this.#icon.setAttribute("aria-label", texts.expand(count));
    this.#icon.classList.toggle("stale", bubbles.some(({ call }) => call.stale));
    this.#interrupted.hidden = !this.#interrupted.textContent;
    this.#more.hidden = !rest || this.#isMinimised;
    this.#list.hidden = this.#isMinimised;
    this.#icon.hidden = !this.#isMinimised;
    this.#dock.hidden = !count;
    this.#tick();
  }

  /** Write the durations, and schedule the next change of one. */
  #tick() {
    clearTimeout(this.#timer);
    if (this.#isMinimised || document.hidden) return;
    const wait = Math.min(...[...this.#bubbles.values()].map((bubble) => bubble.tick(this.#now())));
    if (wait <= 1) this.#timer = setTimeout(() => this.#tick(), wait * 1_000 + 5);
  }

  #minimise(/** @type {boolean} */ isMinimised) {
    this.#isMinimised = isMinimised;
    this.#showsAll = false;
    stored(() => sessionStorage.setItem(MINIMISED, isMinimised ? "1" : ""));
    this.#arrange();
    this.#focus();
  }

  #focus() {
    const [first] = this.#bubbles.values();
    (this.#isMinimised ? this.#icon : first?.minimise)?.focus();
  }

  /** Announce a change; never a duration. */
  #tell(/** @type {string} */ text) {
    const line = make("div", {}, text);
    this.#heard.append(line);
    setTimeout(() => line.remove(), HEARD);
  }
}

/** Show each notice once across reloads and tabs; an unknown outcome stays. */
export class Notices {
  #offer;
  /** @type {Set<string>} claimed, here or in another tab */
  #handled = new Set();
  /** @type {Set<string>} resolved */
  #over = new Set();
  /** @type {Map<string, {notice: Notice, words: Node, card: HTMLElement}>} */
  #cards = new Map();
  node = make("div", { class: "notices", part: "notices", role: "alert", "aria-atomic": "false" });

  /** @param {(notice: Notice) => boolean} offer it to the page; true if the page shows it */
  constructor(offer) {
    this.#offer = offer;
  }

  /** Show new notices, remove resolved ones. @param {Notice[]} notices */
  render(notices) {
    for (const notice of notices) {
      const { id, level, resolved, text } = notice;
      const shown = this.#cards.get(id);
      if (shown) say(shown.words, text);
      if (resolved) {
        this.#over.add(id);
        this.#remove(id);
      }
      if (this.#handled.has(id) || this.#over.has(id) || level === "info" || document.hidden) continue;
      this.#handled.add(id);
      this.#claim(notice);
    }
  }

  /** Remove unknown outcomes: dismissed in another tab, or no longer followed. @param {(notice: Notice) => boolean} meant */
  drop(meant) {
    for (const [id, { notice }] of this.#cards) {
      if (notice.kind !== "unknown" || !meant(notice)) continue;
      this.#remove(id);
      this.#handled.delete(id);
    }
  }

  /** Show a notice unless another tab does. */
  async #claim(/** @type {Notice} */ notice) {
    const key = keyOf(notice);
    const owner = () => stored(() => localStorage.getItem(key));
    if (notice.kind !== "unknown") {
      await pause(Math.random() * SPREAD);
      if (owner()) return;
      remember(key);
      await pause(AGREED);
    }
    // Without storage each tab shows it.
    if ((owner() ?? ME) !== ME || this.#over.has(notice.id) || !this.node.isConnected) return;
    if (this.#offer(notice)) remember(key);
    else this.#show(notice);
  }

  #show(/** @type {Notice} */ notice) {
    const { id, kind, level, text } = notice;
    const look = level === "error" ? level : "warning";
    const words = make("span", {}, text);
    const dismiss = button("dismiss", "square", { "aria-label": texts.DISMISS }, picture("close", "16"));
    const card = make("div", { class: `notice ${look}`, part: "notice", "data-kind": kind }, picture(look, "20"), words, dismiss);
    dismiss.addEventListener("click", () => {
      remember(keyOf(notice));
      this.#remove(id);
    });
    this.#cards.set(id, { notice, words, card });
    this.node.append(card);
    if (kind !== "unknown") this.#end(id, STAYS);
  }

  async #end(/** @type {string} */ id, /** @type {number} */ milliseconds) {
    await pause(milliseconds);
    if (this.#cards.get(id)?.card.matches(":hover, :focus-within") || document.hidden) this.#end(id, LINGERS);
    else this.#remove(id);
  }

  #remove(/** @type {string} */ id) {
    const card = this.#cards.get(id)?.card;
    const isFocused = card?.matches(":focus-within");
    this.#cards.delete(id);
    card?.remove();
    if (isFocused) this.node.querySelector("button")?.focus();
  }
}

/** The storage key that marks a notice as shown. @param {Notice} notice */
export const keyOf = ({ id }) => NOTICE + id;

const pause = (/** @type {number} */ milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Use the browser's storage, which may be blocked. @template T @param {() => T} use */
function stored(use) {
  try {
    return use();
  } catch {
    return undefined;
  }
}

function remember(/** @type {string} */ key) {
  stored(() => {
    localStorage.setItem(key, ME);
    const keys = Object.keys(localStorage).filter((one) => one.startsWith(NOTICE));
    for (const one of keys.sort().slice(0, -REMEMBERED)) localStorage.removeItem(one); // ids start with the time
  });
}
