/** Keep an event stream open: authorise, read, detect silence, reconnect with back-off. */
/** @import { Hooks, StreamEvent } from "./types.js" */

export const SILENT = 40_000; // milliseconds without a byte: the heartbeat comes every 15 s
const QUIET = 20_000; // after which `wake` replaces a connection
const FIRST = 1_000; // maximum of the first back-off; it doubles with each failure
const LONGEST = 30_000;
const SETTLED = 5_000; // a longer connection resets the back-off
const SPARE = 60; // seconds that a token must remain valid

/** Parses events from chunks of any size. */
export class Parser {
  #decoder = new TextDecoder(); // keeps the bytes of an incomplete character
  #line = "";
  #afterReturn = false;
  #type = "";
  #data = [""].slice(1);
  #id = "";

  /** Return the events that these bytes complete. @param {Uint8Array} bytes @returns {StreamEvent[]} */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    if (this.#afterReturn && text[0] === "\n") text = text.slice(1);
    this.#afterReturn = text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\r|\n/);
    this.#line = lines.pop() ?? "";
    return lines.flatMap((line) => this.#take(line));
  }

  #take(/** @type {string} */ line) {
    if (!line) {
      const event = { type: this.#type || "message", data: this.#data.join("\n"), id: this.#id };
      const events = this.#data.length ? [event] : [];
      this.#type = "";
      this.#data = [];
      return events;
    }
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return [];
  }
}

export class Stream {
  #base;
  #hooks;
  #cases = [""].slice(1);
  /** @type {AbortController | undefined} */
  #connection;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #token = "";
  #lastId = "";
  #failures = 0; // in a row
  #isUnknown = false; // a token was refused; a second refusal is final
  #isSuspended = false;
  heardAt = 0; // by performance.now()

  /** @param {URL} base URL of the gateway @param {Hooks} hooks */
  constructor(base, hooks) {
    this.#base = base;
    this.#hooks = hooks;
  }

  /** Follow these cases from now on. @param {string[]} cases */
  follow(cases) {
    if (cases.join() === this.#cases.join()) return;
    this.#cases = cases;
    this.#lastId = this.#token = "";
    this.#restart();
  }

  /** Connect now, unless the connection received data recently. */
  wake() {
    this.#isSuspended = false;
    if (!this.#connection || performance.now() - this.heardAt > QUIET) this.#restart();
  }

  /** Close the connection until `wake`. */
  suspend() {
    this.#isSuspended = true;
    this.#drop();
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#connection?.abort();
    this.#connection = undefined;
  }

  #restart() {
    this.#drop();
    this.#failures = 0;
    this.#isUnknown = false;
    if (this.#cases.length && !this.#isSuspended) this.#connect();
  }

  async #connect() {
    const connection = new AbortController();
    const { signal } = connection;
    const begun = performance.now();
    const heard = { at: begun };
    const watch = () => {
      const left = heard.at + SILENT - performance.now();
      if (left > 0) this.#timer = setTimeout(watch, left);
      else connection.abort();
    };
    this.#connection = connection;
    watch();
    let wait = NaN;
    try {
      const ended = new Promise((_, reject) => signal.addEventListener("abort", reject));
      wait = await Promise.race([this.#read(signal, heard), ended]);
    } catch {
      // network, token source or watchdog: retry
    }
    if (this.#connection !== connection) return; // replaced by another one
    this.#drop();
    if (performance.now() - begun > SETTLED) this.#failures = 0;
    // NaN: back off by the failures in a row.
    if (!(wait >= 0)) wait = Math.random() * Math.min(LONGEST, FIRST * 2 ** this.#failures);
    this.#failures += 1;
    if (wait < Infinity) this.#timer = setTimeout(() => this.#connect(), wait);
  }

  /** Return the milliseconds to wait after this connection. @returns {Promise<number>} */
  async #read(/** @type {AbortSignal} */ signal, /** @type {{at: number}} */ heard) {
    const response = await this.#request(signal);
    if (!response.ok) return this.#refusal(response);
    const reader = response.body?.getReader();
    const parser = new Parser();
    const begun = performance.now();
    let wait = NaN;
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) return wait;
    this.#isUnknown = false;
    for (;;) {
      const { value, done } = (await reader?.read()) ?? { done: true };
      if (done || signal.aborted) return wait;
      this.heardAt = heard.at = performance.now();
      const events = parser.push(value);
      for (const { id, type, data } of events) {
        this.#lastId = id;
        if (type !== "bye") continue;
        const { reason, retry } = JSON.parse(data);
        // Renewals are spread over time: reconnect without a wait.
        wait = reason === "renew" && heard.at - begun > FIRST ? 0 : Math.min(LONGEST, retry);
      }
      this.#hooks.take(events);
    }
  }

  async #request(/** @type {AbortSignal} */ signal) {
    if (!(expiry(this.#token) - this.#hooks.now() > SPARE)) {
      const token = await this.#hooks.token([...this.#cases], signal);
      signal.throwIfAborted();
      this.#token = `${token}`.trim();
    }
    const url = new URL("v1/stream", this.#base);
    for (const one of this.#cases) url.searchParams.append("case", one);
    const headers = new Headers({ Accept: "text/event-stream", Authorization: `Bearer ${this.#token}` });
    if (this.#lastId) headers.set("Last-Event-ID", this.#lastId);
    return fetch(url, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  }

  #refusal(/** @type {Response} */ { status, headers }) {
    if (status === 401 && !this.#isUnknown) {
      this.#isUnknown = true;
      this.#token = "";
      return 0;
    }
    if ([401, 403, 404].includes(status)) {
      this.#hooks.refused();
      return Infinity;
    }
    this.#lastId = status === 400 ? "" : this.#lastId;
    const seconds = Number(headers.get("Retry-After"));
    return seconds > 0 ? Math.min(2 * LONGEST, seconds * 1_000) * (1 + Math.random() / 2) : NaN;
  }
}

/** Return the expiry of a token (epoch seconds), NaN if it has none. */
function expiry(/** @type {string} */ token) {
  try {
    return Number(JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp);
  } catch {
    return NaN;
  }
}
