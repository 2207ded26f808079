// Types for the JSDoc of the modules; not loaded by browsers.

/** A call as the gateway sends it (docs/http.md); the widget adds the case. Times are epoch seconds. */
export interface Call {
  job_id: string;
  case_id: string;
  mediation_id: string;
  person: string;
  call_status: string;
  label: string;
  started_at: number;
  since: number;
  verdict: "ended" | "expired" | "lost" | null;
}

/** A message shown once; the widget sets `resolved` when it no longer applies. */
export interface Notice {
  id: string;
  kind: string;
  level: "info" | "warning" | "error";
  text: string;
  at?: number;
  case_id: string;
  mediation_id?: string;
  job_id?: string;
  some_started?: boolean;
  refused?: { person?: string; message?: string }[];
  resolved?: boolean;
}

/** The state of a page: calls by job, notices by id, whether Redis and upstream answer. */
export interface State {
  calls: Map<string, Call>;
  notices: Map<string, Notice>;
  store: "ok" | "away";
  upstream: "ok" | "away";
  upstream_since: number | null;
}

/** An event of the stream; `id` is the last id received. */
export interface StreamEvent {
  type: string;
  data: string;
  id: string;
}

/** A person of a case, provided by the page. */
export interface Party {
  person_id: string;
  name?: string;
  role?: string;
}

export type TokenProvider = (cases: string[], signal: AbortSignal) => string | Promise<string>;

/** Callbacks of a stream. */
export interface Hooks {
  /** Return a token for these cases. */
  token: TokenProvider;
  /** Return the server's time, NaN if unknown. */
  now: () => number;
  /** Handle received data, even without a complete event. */
  take: (events: StreamEvent[]) => void;
  /** Handle a final refusal: no retry until `wake`. */
  refused: () => void;
}

/** A call as the dock shows it; `stale` while its feed is interrupted. */
export interface Shown extends Call {
  name: string;
  stale: boolean;
}
