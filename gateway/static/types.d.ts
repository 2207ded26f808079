// The types that the modules name in their JSDoc. No browser loads this file.

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

/** What a person is told once; the widget adds `resolved` where it is no longer true. */
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

/** What a page knows: calls by job, notices by id, whether Redis and upstream answer. */
export interface State {
  calls: Map<string, Call>;
  notices: Map<string, Notice>;
  store: "ok" | "away";
  upstream: "ok" | "away";
  upstream_since: number | null;
}

/** An event of the stream; `id` is the newest id of the stream so far. */
export interface StreamEvent {
  type: string;
  data: string;
  id: string;
}

/** A person of a case, as the page knows them. */
export interface Party {
  person_id: string;
  name?: string;
  role?: string;
}

export type TokenProvider = (cases: string[], signal: AbortSignal) => string | Promise<string>;

/** What a stream needs of the one who uses it. */
export interface Hooks {
  /** Return a token for these cases. */
  token: TokenProvider;
  /** Return the server's time, NaN where it is not known. */
  now: () => number;
  /** Take what was heard, even if it completed no event. */
  take: (events: StreamEvent[]) => void;
  /** The gateway refuses: nothing is tried until `wake`. */
  refused: () => void;
}

/** A call as the dock shows it; `stale` where it is no longer followed. */
export interface Shown extends Call {
  name: string;
  stale: boolean;
}
