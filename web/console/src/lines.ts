/** The sessions and their runs, as lists and events tell of them. Pure: no requests, no page. */
import type { ApiRun, ApiSession, Event, InputRequest, Status } from "./shapes";

const KEPT_MS = 11 * 60_000; // a little longer than the longest span on screen
const MOST_RUNS = 300; // of one session
const RANK: Record<Status, number> = { queued: 0, running: 1, succeeded: 2, failed: 2, cancelled: 2, needs_input: 2 };

/** A run: its times in milliseconds since the epoch, by the server's clock, NaN until they have come. */
export interface Run {
  id: string;
  session: string;
  status: Status;
  accepted: number;
  started: number;
  ended: number;
  row: number; // which of the thin lines it is while it waits
}

/** A session with its recent runs, oldest first. */
export interface Line {
  id: string;
  caller: string | undefined;
  isOthers: boolean;
  since: number; // its place among those that are active
  touched: number; // when anything happened last
  runs: Run[];
  waiting: number;
  running: number;
  paused: boolean;
  locked: boolean;
  asks: InputRequest[];
  failed: boolean; // whether its last run has
}

export type Filter = "all" | "running" | "waiting" | "asks" | "paused" | "failed";

export class Lines {
  readonly all = new Map<string, Line>();
  readonly runs = new Map<string, Run>();
  ended: number[] = []; // when runs ended, within the last minute
  private counted = 0;

  clear(): void {
    this.all.clear();
    this.runs.clear();
  }

  line(id: string, at: number): Line {
    const known = this.all.get(id);
    if (known) return known;
    const line: Line = {
      id,
      caller: undefined,
      isOthers: false,
      since: ++this.counted,
      touched: at,
      runs: [],
      waiting: 0,
      running: 0,
      paused: false,
      locked: false,
      asks: [],
      failed: false,
    };
    this.all.set(id, line);
    return line;
  }

  /** Takes over a session of a list. Of another caller's there are only numbers. */
  session(listed: ApiSession, own: string | undefined): void {
    const isOthers = listed.caller !== undefined && own !== undefined && listed.caller !== own;
    const line = this.line(isOthers ? `${listed.caller}/${listed.session_id}` : listed.session_id, 0);
    line.caller = listed.caller;
    line.isOthers = isOthers;
    line.paused = listed.paused;
    line.locked = listed.locked_by !== null;
    line.asks = listed.input_requests;
    if (isOthers) {
      line.waiting = listed.queue_depth;
      line.running = listed.running === null ? 0 : 1;
    }
  }

  /** Takes over a run of a list. */
  listed(run: ApiRun): void {
    const at = Date.parse(run.created_at ?? "");
    if (Number.isNaN(at)) return;
    const [started, ended] = [Date.parse(run.started_at ?? ""), Date.parse(run.ended_at ?? "")];
    this.put(run.run_id, run.session_id, run.status, at, started, ended);
  }

  /** Applies an event. Returns whether the session has to be read again. */
  apply(event: Event): boolean {
    const at = Date.parse(event.at);
    const session = event.session_id;
    if (session === undefined) return false;
    if (event.run_id === undefined) {
      const line = this.line(session, at);
      if (event.type === "session.deleted") this.remove(line);
      else line.paused = event.type === "session.paused";
      return false;
    }
    switch (event.type) {
      case "run.queued":
        this.put(event.run_id, session, "queued", at, NaN, NaN);
        return false;
      case "run.started":
      case "run.restarted": {
        const line = this.line(session, at);
        const asked = line.asks.length > 0;
        this.put(event.run_id, session, "running", at, at, NaN);
        return asked;
      }
      case "run.joined":
        this.put(String(event["joining"]), session, "running", at, at, NaN);
        return false;
      case "run.finished": {
        const line = this.line(session, at);
        this.put(event.run_id, session, event["status"] as Status, at, NaN, at);
        if (event["status"] === "needs_input") line.asks = event["input_requests"] as InputRequest[];
        this.ended.push(at);
        return line.asks.length > 0 || line.locked;
      }
      default:
        return false;
    }
  }

  private put(id: string, session: string, status: Status, accepted: number, started: number, ended: number): void {
    const line = this.line(session, accepted);
    let run = this.runs.get(id);
    if (run === undefined) {
      run = { id, session, status, accepted, started, ended, row: this.freeRow(line, accepted, started) };
      this.runs.set(id, run);
      const after = line.runs.findLastIndex((each) => each.accepted <= accepted);
      line.runs.splice(after + 1, 0, run);
      if (line.runs.length > MOST_RUNS) this.runs.delete(line.runs.shift()!.id);
    } else {
      if (RANK[status] < RANK[run.status]) return;
      run.status = status;
      if (Number.isNaN(run.started)) run.started = started;
      if (Number.isNaN(run.ended)) run.ended = ended;
    }
    line.touched = Math.max(line.touched, ...[accepted, started, ended].filter((each) => !Number.isNaN(each)));
    this.count(line);
  }

  private freeRow(line: Line, from: number, to: number): number {
    const until = Number.isNaN(to) ? Infinity : to;
    const taken = new Set<number>();
    for (const each of line.runs) {
      const left = Number.isNaN(each.started) ? (Number.isNaN(each.ended) ? Infinity : each.ended) : each.started;
      if (each.accepted < until && left > from) taken.add(each.row);
    }
    let row = 0;
    while (taken.has(row)) row += 1;
    return row;
  }

  private count(line: Line): void {
    const wasActive = line.waiting + line.running > 0;
    line.waiting = line.running = 0;
    for (const run of line.runs) {
      if (run.status === "queued") line.waiting += 1;
      else if (run.status === "running") line.running += 1;
    }
    const last = line.runs.findLast((run) => RANK[run.status] === 2);
    line.failed = last?.status === "failed";
    if (!wasActive && line.waiting + line.running > 0) line.since = ++this.counted;
  }

  private remove(line: Line): void {
    for (const run of line.runs) this.runs.delete(run.id);
    this.all.delete(line.id);
  }

  /** Forgets runs that have ended long ago. */
  forget(now: number): void {
    this.ended = this.ended.filter((at) => at > now - 60_000);
    for (const line of this.all.values()) {
      let gone = 0;
      while (gone < line.runs.length && line.runs[gone]!.ended < now - KEPT_MS) gone += 1;
      for (const run of line.runs.splice(0, gone)) this.runs.delete(run.id);
    }
  }

  /** Returns the lines to show: active ones in the order in which they became so, then the latest. */
  shown(filter: Filter, search: string, now: number): Line[] {
    const wanted = search.trim().toLowerCase();
    const found = [...this.all.values()].filter((line) => suits(line, filter) && line.id.toLowerCase().includes(wanted));
    const isActive = (line: Line): boolean => line.waiting + line.running > 0 || line.touched > now - 8_000;
    return found.sort((one, other) => {
      const [a, b] = [isActive(one), isActive(other)];
      if (a !== b) return a ? -1 : 1;
      return a ? one.since - other.since : other.touched - one.touched || (one.id < other.id ? -1 : 1);
    });
  }

  /** Returns our own lines that ask a person something. */
  asking(): Line[] {
    return [...this.all.values()].filter((line) => line.asks.length > 0 && !line.isOthers);
  }

  counts(): Record<Filter, number> {
    const counts: Record<Filter, number> = { all: this.all.size, running: 0, waiting: 0, asks: 0, paused: 0, failed: 0 };
    for (const line of this.all.values()) {
      for (const filter of ["running", "waiting", "asks", "paused", "failed"] as const) {
        if (suits(line, filter)) counts[filter] += 1;
      }
    }
    return counts;
  }
}

function suits(line: Line, filter: Filter): boolean {
  switch (filter) {
    case "all":
      return true;
    case "running":
      return line.running > 0;
    case "waiting":
      return line.waiting > 0;
    case "asks":
      return line.asks.length > 0;
    case "paused":
      return line.paused;
    case "failed":
      return line.failed;
  }
}

/** Says in words what a session does. */
export function stateOf(line: Line): string {
  const words = [];
  if (line.running) words.push(line.running > 1 ? `${line.running} executing` : "executing");
  if (line.waiting) words.push(`${line.waiting} waiting`);
  if (line.paused) words.push("paused");
  if (line.asks.length) words.push("asks a person");
  if (line.locked) words.push("locked");
  if (!words.length) words.push(line.failed ? "last run failed" : "idle");
  return words.join(" · ");
}
