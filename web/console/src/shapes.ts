/** What the API answers, as far as the page uses it. */
export type Status = "queued" | "running" | "succeeded" | "failed" | "cancelled" | "needs_input";

export interface Why {
  code: string;
  text: string;
}

export interface InputRequest {
  id: string;
  name: string;
  reason: unknown;
}

export interface Sender {
  id: string;
  name?: string | null;
}

export type Block = Record<string, unknown>;

export interface ApiMessage {
  role: string;
  content: Block[];
}

export interface ApiRun {
  run_id: string;
  session_id: string;
  status: Status;
  phase: string | null;
  attempt: number;
  priority: number;
  if_busy: string;
  joined: string | null;
  join: string | null;
  position: number | null;
  estimated_wait_s: number | null;
  why: Why | null;
  created_at: string | null;
  not_before: string | null;
  started_at: string | null;
  ended_at: string | null;
  output: string;
  message: ApiMessage | null;
  error: { code: string; detail: string } | null;
  input_requests: InputRequest[];
  usage: Record<string, number> | null;
  locks_session: boolean;
  cancel_requested: boolean;
  metadata: Record<string, unknown>;
  sender: Sender | null;
  superseded?: string[];
}

export interface ApiRuns {
  runs: ApiRun[];
  next_cursor: string | null;
}

export interface ApiSession {
  session_id: string;
  messages: number;
  queue_depth: number;
  running: string | null;
  locked_by: string | null;
  paused: boolean;
  input_requests: InputRequest[];
  input_until: string | null;
  why: Why | null;
  caller?: string;
}

export interface ApiSessions {
  sessions: ApiSession[];
  next_cursor: string | null;
}

export interface Health {
  status: string;
  ready?: boolean;
  agent_id?: string;
  version?: string;
  auth?: "keys" | "none";
  caller?: string;
  running?: number;
  max_running?: number;
  queue_depth?: number;
  locked_sessions?: number;
  stalled?: number;
  oldest_wait_s?: number;
  longest_no_progress_s?: number;
  refused_runs?: number;
  lost_clients?: number;
  agents_in_memory?: number;
  workers?: { pid: number | null; running: number; silent_s: number }[];
  cluster?: { servers: number; partitions: number };
  callers?: Record<string, { claimed: number; waiting: number; still_working: number }>;
}

/** An event of a run or session, by its `type`. */
export interface Event {
  type: string;
  at: string;
  run_id?: string;
  session_id?: string;
  [field: string]: unknown;
}
