/**
 * `<callwatch-calls case-id="C-1" token-url="/token?case=C-1">`: the live calls of a case.
 *
 * All elements of a page share one dock, in the shadow root of the first and in the top layer: no ancestor can move or clip
 * it. Elements with the same token source share a stream.
 */
/** @import { Notice, Party, State, StreamEvent, TokenProvider } from "./types.js" */

import { Dock, keyOf, make, Notices, sheet } from "./dock.js";
import { byStart, NOTHING, only, reduce } from "./state.js";
import { SILENT, Stream } from "./stream.js";
import { callFailed, clock, interrupted, nameOf, refusals, UNKNOWN_CONTACT } from "./texts.js";

const BASE = new URL("../../", import.meta.url); // this file is /assets/VERSION/callwatch-calls.js
const HIDDEN = 5_000; // milliseconds until a hidden page closes its stream: browsers allow six per server
const RETURNS = 3_000; // milliseconds for a page shown again to connect
const APART = 2; // seconds of apparent clock step back that are ignored

let ahead = NaN; // seconds by which the server's clock is ahead
const now = () => ahead + performance.now() / 1_000;

/** A stream and its state. */
class Feed {
  /** @type {State} */
  state = NOTHING;
  /** @type {Set<CallwatchCalls>} */
  elements = new Set();
  stream = new Stream(BASE, this);
  now = now;
  isRefused = false;
  #goodAt = NaN; // last time that Redis was known to answer (epoch seconds)

  /** @param {string | TokenProvider} source of tokens @param {() => void} changed */
  constructor(source, changed) {
    this.source = source;
    this.changed = changed;
  }

  /** Return when its calls were last current (epoch seconds), NaN while they are. @param {number} shownAt since when the page is visible */
  interrupted(shownAt) {
    const at = performance.now();
    const age = at - this.stream.heardAt;
    if (this.state.store === "away") return this.#goodAt;
    if (this.isRefused || (age >= SILENT && at - shownAt >= RETURNS)) return now() - age / 1_000;
    return this.state.upstream === "away" ? (this.state.upstream_since ?? now()) : NaN;
  }

  /** @param {string[]} cases @param {AbortSignal} signal */
  async token(cases, signal) {
    const { source } = this;
    if (typeof source === "function") return source(cases, signal);
    const response = await fetch(source, { signal, cache: "no-store" });
    if (!response.ok) throw new Error(`${response.status}`);
    const text = await response.text();
    return text.trimStart().startsWith("{") ? JSON.parse(text).token : text;
  }

  /** @param {StreamEvent[]} events */
  take(events) {
    this.isRefused = false;
    for (const { type, data } of events) {
      try {
        const body = JSON.parse(data);
        const seen = body.now - performance.now() / 1_000;
        // A delay makes the server's clock seem behind: the fastest event is right, unless that clock was set.
        if (body.now && !(seen < ahead && seen > ahead - APART)) ahead = seen;
        this.state = reduce(this.state, type, body);
      } catch {
        // an event in the format of a newer gateway
      }
      if (this.state.store !== "away") this.#goodAt = now();
    }
    this.changed();
  }

  refused() {
    this.isRefused = true;
    this.changed();
  }
}

/** All elements of the page. */
class Board {
  /** @type {Set<CallwatchCalls>} */
  #elements = new Set();
  /** @type {Set<Feed>} */
  #feeds = new Set();
  #dock = new Dock(now, () => this.#wake());
  #notices = new Notices((notice) => this.#offer(notice));
  #layer = make("div", { class: "layer", lang: "zh-CN", popover: "manual" }, ...this.#dock.nodes, this.#notices.node);
  /** @type {AbortController | undefined} */
  #listening;
  #isDue = false;
  #shownAt = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #hiding;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #aging;

  /** Handle an element that was added, removed, changed or moved. @param {CallwatchCalls} element */
  changed(element) {
    this.#elements.add(element);
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      this.#settle();
    });
  }

  #settle() {
    for (const one of this.#elements) if (!one.isConnected) this.#elements.delete(one);
    const [home] = this.#elements;
    if (home) {
      if (!this.#listening) this.#listen();
      if (this.#layer.getRootNode() !== home.shadowRoot) home.shadowRoot?.append(this.#layer);
      if (this.#layer.showPopover && !this.#layer.matches(":popover-open")) this.#layer.showPopover();
    }
    this.#assign();
    this.#render();
    if (home) return;
    this.#layer.remove();
    this.#listening?.abort();
    this.#listening = undefined;
    clearTimeout(this.#hiding);
  }

  /** Assign a feed to each element, and cases to each feed. */
  #assign() {
    for (const { elements } of this.#feeds) for (const one of elements) if (!one.isConnected || !one.source) elements.delete(one);
    for (const element of this.#elements) {
      const { source } = element;
      const feeds = [...this.#feeds];
      const own = feeds.find(({ elements }) => elements.has(element));
      let feed = feeds.find((one) => one.source === source);
      if (!source || own?.source === source) continue;
      if (own?.elements.size === 1 && !feed) {
        own.source = source; // a page may create its function at each render
        if (own.isRefused) own.stream.wake();
      } else {
        own?.elements.delete(element);
        feed ??= new Feed(source, () => this.#render());
        this.#feeds.add(feed);
        feed.elements.add(element);
      }
    }
    const all = new Set();
    for (const feed of this.#feeds) {
      const cases = [...new Set([...feed.elements].flatMap((one) => one.cases))];
      for (const one of cases) all.add(one);
      feed.state = only(feed.state, cases);
      if (document.hidden && !this.#hiding) feed.stream.suspend();
      feed.stream.follow(cases);
      if (!feed.elements.size) this.#feeds.delete(feed);
    }
    this.#notices.drop(({ case_id }) => !all.has(case_id));
  }

  #render() {
    const shown = new Map();
    const ended = new Map();
    const notices = [];
    let since = NaN;
    for (const feed of this.#feeds) {
      const upTo = feed.interrupted(this.#shownAt);
      for (const call of feed.state.calls.values()) {
        const { job_id: job, label, verdict } = call;
        if (verdict === "ended") ended.set(job, label);
        if (verdict) continue;
        shown.set(job, { ...call, name: this.#name(call.person, call.case_id), stale: upTo >= 0 });
        if (upTo >= 0 && !(upTo > since)) since = upTo;
      }
      for (const notice of feed.state.notices.values()) notices.push({ ...notice, text: this.#write(notice, feed.state) });
    }
    this.#dock.render([...shown.values()].sort(byStart), since >= 0 ? interrupted(clock(since)) : "", ended);
    this.#notices.render(notices);
    this.#age();
  }

  /** Render again when a feed may have become stale. */
  #age() {
    clearTimeout(this.#aging);
    const at = performance.now();
    const waits = [...this.#feeds].map(({ stream }) => stream.heardAt + SILENT - at).concat(this.#shownAt + RETURNS - at);
    const wait = Math.min(...waits.filter((one) => one > 0));
    if (wait < Infinity) this.#aging = setTimeout(() => this.#render(), wait + 5);
  }

  #name(/** @type {string} */ person, /** @type {string} */ id) {
    return nameOf(person, [...this.#elements].filter(({ cases }) => cases.includes(id)).flatMap(({ parties }) => parties));
  }

  /** Return a notice's text, with names provided by the page. @param {Notice} notice @param {State} state */
  #write({ kind, text, case_id, job_id = "", refused, some_started }, state) {
    const person = state.calls.get(job_id)?.person;
    if (kind === "failed" && person) return callFailed(this.#name(person, case_id));
    if (kind !== "refused" || !refused?.length) return text;
    return refusals(refused.map((one) => [this.#name(one.person || UNKNOWN_CONTACT, case_id), one.message ?? ""]), some_started);
  }

  #offer(/** @type {Notice} */ detail) {
    const event = new CustomEvent("callwatch-notice", { detail, bubbles: true, composed: true, cancelable: true });
    return [...this.#elements].find(({ cases }) => cases.includes(detail.case_id))?.dispatchEvent(event) === false;
  }

  #wake() {
    for (const { stream } of this.#feeds) stream.wake();
    this.#render();
  }

  #suspend() {
    this.#hiding = undefined;
    for (const { stream } of this.#feeds) stream.suspend();
  }

  #listen() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    const turn = () => {
      clearTimeout(this.#hiding);
      if (document.hidden) this.#hiding = setTimeout(() => this.#suspend(), HIDDEN);
      else {
        this.#shownAt = performance.now();
        this.#wake();
      }
    };
    document.addEventListener("visibilitychange", turn, { signal });
    addEventListener("pageshow", (event) => event.persisted && turn(), { signal });
    addEventListener("pagehide", () => this.#suspend(), { signal }); // the page may enter the back-forward cache
    addEventListener("online", () => document.hidden || this.#wake(), { signal });
    addEventListener("storage", ({ key }) => this.#notices.drop((notice) => keyOf(notice) === key), { signal });
  }
}

const board = new Board();

export class CallwatchCalls extends HTMLElement {
  static observedAttributes = ["case-id", "token-url"];

  /** @type {Party[]} */
  #parties = [];
  /** @type {TokenProvider | undefined} */
  #tokenProvider;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
  }

  connectedCallback() {
    for (const name of /** @type {const} */ (["parties", "tokenProvider"])) {
      const { [name]: value } = this;
      if (delete this[name] && value) Object.assign(this, { [name]: value }); // set before this class was defined
    }
    board.changed(this);
  }

  disconnectedCallback() {
    board.changed(this);
  }

  /** Moved without removal: nothing changes. */
  connectedMoveCallback() {}

  attributeChangedCallback() {
    if (this.isConnected) board.changed(this);
  }

  /** The cases shown. */
  get cases() {
    return (this.getAttribute("case-id") ?? "").split(/[\s,]+/).filter(Boolean);
  }

  /** The source of its tokens. */
  get source() {
    const url = this.getAttribute("token-url");
    return this.#tokenProvider ?? (url && new URL(url, document.baseURI).href);
  }

  /** The persons of the case; names stay in this browser. */
  get parties() {
    return this.#parties;
  }

  set parties(parties) {
    this.#parties = Array.isArray(parties) ? parties : [];
    this.attributeChangedCallback();
  }

  /** Return a token for cases, or a promise. */
  get tokenProvider() {
    return this.#tokenProvider;
  }

  set tokenProvider(provider) {
    this.#tokenProvider = typeof provider === "function" ? provider : undefined;
    this.attributeChangedCallback();
  }
}

if (!customElements.get("callwatch-calls")) customElements.define("callwatch-calls", CallwatchCalls);
