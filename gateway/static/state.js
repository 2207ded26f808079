/**
 * The state of a page, from the events of its stream. Pure and idempotent: calls are complete, a snapshot replaces its
 * cases.
 */
/** @import { Call, Notice, State } from "./types.js" */

const KEPT = 200; // notices
const RESOLVING = new Set(["adopted", "released", "nothing_found"]);
const OPEN = new Set(["unknown", "nothing_found"]);

/** @type {State} */
export const NOTHING = { calls: new Map(), notices: new Map(), store: "ok", upstream: "ok", upstream_since: null };

/** Return the state after an event of the stream. @param {State} state @param {string} type @param {any} data */
export function reduce(state, type, data) {
  const next = { ...state, calls: new Map(state.calls), notices: new Map(state.notices) };
  const id = data.case_id;
  if (type === "snapshot") {
    for (const one of data.cases) replace(next, one);
    if (data.now) surround(next, { store: "ok", ...data });
  } else if (type === "call") next.calls.set(data.call.job_id, { ...data.call, case_id: id });
  else if (type === "notice") note(next, data);
  else if (type === "pair") settle(next, id, data);
  else if (type === "state") surround(next, data);
  else if (type === "gone") {
    clear(next, id);
    resolve(next, (one) => one.case_id === id);
  }
  return next;
}

/** Return the state of these cases only. @param {State} state @param {string[]} cases */
export function only(state, cases) {
  const kept = (/** @type {Map<string, any>} */ map) => new Map([...map].filter(([, one]) => cases.includes(one.case_id)));
  return { ...state, calls: kept(state.calls), notices: kept(state.notices) };
}

/** Sort the oldest call first, like the gateway. @param {Call} a @param {Call} b */
export const byStart = (a, b) => a.started_at - b.started_at || (a.job_id < b.job_id ? -1 : 1);

function surround(/** @type {State} */ next, /** @type {any} */ { store, upstream, upstream_since = null }) {
  if (store) next.store = store;
  if (upstream) Object.assign(next, { upstream, upstream_since });
}

function clear(/** @type {State} */ next, /** @type {string} */ id) {
  for (const [job, call] of next.calls) if (call.case_id === id) next.calls.delete(job);
}

function replace(/** @type {State} */ next, /** @type {any} */ { case_id, calls, notices, pairs }) {
  clear(next, case_id);
  for (const call of calls) next.calls.set(call.job_id, { ...call, case_id });
  for (const notice of notices) note(next, notice);
  for (const pair of pairs) settle(next, case_id, pair);
}

function note(/** @type {State} */ next, /** @type {Notice} */ notice) {
  if (next.notices.has(notice.id)) return;
  if (RESOLVING.has(notice.kind)) settle(next, notice.case_id, { ...notice, phase: "done" });
  next.notices.set(notice.id, notice);
  const [oldest] = next.notices.keys();
  if (next.notices.size > KEPT) next.notices.delete(oldest);
}

/** Resolve the unknown outcomes of a pair that is watching or done. */
function settle(/** @type {State} */ next, /** @type {string} */ id, /** @type {any} */ { mediation_id, phase }) {
  if (phase !== "watching" && phase !== "done") return;
  resolve(next, (one) => one.case_id === id && one.mediation_id === mediation_id && OPEN.has(one.kind));
}

function resolve(/** @type {State} */ next, /** @type {(one: Notice) => boolean} */ meant) {
  for (const [id, one] of next.notices) if (meant(one)) next.notices.set(id, { ...one, resolved: true });
}
