/** Keeps the lines up to date: lists at the start, then the feed, and both again after a lost connection. */
import { Refused, events, health, pause, read, sessionPath } from "./api";
import { Lines } from "./lines";
import type { ApiRuns, ApiSession, ApiSessions, Event, Health } from "./shapes";

const TYPES = "run.queued,run.started,run.restarted,run.joined,run.finished,session.paused,session.resumed,session.deleted";
const MOST_PAGES = 5;
const HEALTH_MS = 2_000;
const OTHERS_MS = 5_000;
const SAMPLES = 150; // five minutes
const RETRY_MS = [300, 600, 1_000, 2_000, 4_000];

export interface Sample {
  running: number;
  waiting: number;
  oldest: number;
  refused: number;
  ended: number;
}

export type Connection = "opening" | "open" | "lost";

export class Live {
  readonly lines = new Lines();
  readonly samples: Sample[] = [];
  health: Health | null = null;
  connection: Connection = "opening";
  isOperator = false;
  isCut = false; // there are more sessions than are shown
  private readonly listeners = new Set<() => void>();
  private readonly heard = new Set<(event: Event) => void>();
  private readonly opens = new Set<() => void>();
  private stopped = new AbortController();
  private pending = 0;
  private offset = 0; // the server's clock beside ours
  private own: string | undefined;
  private refusedBefore: number | null = null;

  /** The server's time, in milliseconds since the epoch. */
  now(): number {
    return Date.now() + this.offset;
  }

  start(): void {
    this.stopped = new AbortController();
    const { signal } = this.stopped;
    void this.follow(signal);
    void this.watch(signal);
  }

  stop(): void {
    this.stopped.abort();
    this.lines.clear();
    this.connection = "opening";
    this.isOperator = false;
    this.own = undefined;
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Calls back with every event of the feed. */
  hear(listener: (event: Event) => void): () => void {
    this.heard.add(listener);
    return () => this.heard.delete(listener);
  }

  /** Calls back whenever the connection has been made again. */
  whenOpen(listener: () => void): () => void {
    this.opens.add(listener);
    return () => this.opens.delete(listener);
  }

  /** Has the views drawn again, ten times a second at most. */
  changed(): void {
    if (this.pending) return;
    this.pending = window.setTimeout(() => {
      this.pending = 0;
      for (const listener of this.listeners) listener();
    }, 100);
  }

  private set(connection: Connection): void {
    if (this.connection === connection) return;
    this.connection = connection;
    if (connection === "open") for (const listener of this.opens) listener();
    this.changed();
  }

  private async follow(signal: AbortSignal): Promise<void> {
    let after: string | undefined;
    let failures = 0;
    while (!signal.aborted) {
      const failed = new AbortController();
      try {
        const early: Event[] = [];
        let loaded = after !== undefined;
        const opened = (): void => {
          failures = 0;
          if (loaded) this.set("open");
          else void load();
        };
        const load = async (): Promise<void> => {
          try {
            await this.load(signal);
            loaded = true;
            for (const event of early.splice(0)) this.apply(event, signal);
            this.set("open");
          } catch {
            after = undefined;
            failed.abort();
          }
        };
        const path = `v1/events?type=${TYPES}`;
        for await (const { id, data } of events(path, after, AbortSignal.any([signal, failed.signal]), opened)) {
          const event = JSON.parse(data) as Event;
          after = id ?? after;
          if (event.type === "stream.gap") {
            if (loaded) {
              loaded = false;
              void load();
            }
          } else if (loaded) this.apply(event, signal);
          else early.push(event);
        }
      } catch (error) {
        if (error instanceof Refused && error.status === 422) after = undefined;
        if (error instanceof Refused && error.status === 401) return;
      }
      if (signal.aborted) return;
      this.set("lost");
      await pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]!, signal);
      failures += 1;
    }
  }

  private apply(event: Event, signal: AbortSignal): void {
    if (this.lines.apply(event)) void this.again(event.session_id!, signal);
    for (const listener of this.heard) listener(event);
    this.changed();
  }

  /** Reads one session again. */
  async again(id: string, signal?: AbortSignal): Promise<void> {
    try {
      const session = await read<ApiSession>(sessionPath(id), signal ? { signal } : {});
      const line = this.lines.line(id, this.now());
      line.asks = session.input_requests;
      line.paused = session.paused;
      line.locked = session.locked_by !== null;
      this.changed();
    } catch {
      // it is deleted, or the next event tells of it
    }
  }

  private async load(signal: AbortSignal): Promise<void> {
    await this.ask();
    const [live, recent, sessions] = await Promise.all([
      this.pages("v1/runs?status=queued,running&limit=1000", signal),
      read<ApiRuns>("v1/runs?limit=300", { signal }),
      this.sessions(signal),
    ]);
    this.lines.clear();
    for (const session of sessions) this.lines.session(session, this.own);
    for (const run of [...live, ...recent.runs].reverse()) this.lines.listed(run);
    this.changed();
  }

  private async ask(): Promise<void> {
    const { state, ahead } = await health<Health>();
    this.health = state;
    this.offset = ahead;
    this.own = state.caller;
    this.isOperator = state.callers !== undefined;
  }

  private async pages(path: string, signal: AbortSignal): Promise<ApiRuns["runs"]> {
    const found = [];
    let cursor: string | null = null;
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const got: ApiRuns = await read<ApiRuns>(cursor === null ? path : `${path}&cursor=${encodeURIComponent(cursor)}`, { signal });
      found.push(...got.runs);
      cursor = got.next_cursor;
      if (cursor === null) break;
    }
    return found;
  }

  private async sessions(signal: AbortSignal): Promise<ApiSession[]> {
    const found: ApiSession[] = [];
    let cursor: string | null = null;
    this.isCut = false;
    for (let page = 0; page < MOST_PAGES; page += 1) {
      const more: string = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const got: ApiSessions = await read<ApiSessions>(`v1/sessions?limit=1000${more}`, { signal });
      found.push(...got.sessions);
      cursor = got.next_cursor;
      if (cursor === null) return found;
    }
    this.isCut = true;
    return found;
  }

  private async watch(signal: AbortSignal): Promise<void> {
    let others = 0;
    while (!signal.aborted) {
      try {
        await this.ask();
        this.sample(this.health!);
        if (this.isOperator && this.connection === "open" && (others += HEALTH_MS) >= OTHERS_MS) {
          others = 0;
          for (const each of await this.sessions(signal)) if (each.caller !== this.own) this.lines.session(each, this.own);
        }
      } catch {
        // the feed says that the connection is lost
      }
      this.lines.forget(this.now());
      this.changed();
      await pause(document.hidden ? 4 * HEALTH_MS : HEALTH_MS, signal);
    }
  }

  private sample(seen: Health): void {
    const refused = seen.refused_runs ?? 0;
    this.samples.push({
      running: seen.running ?? 0,
      waiting: seen.queue_depth ?? 0,
      oldest: seen.oldest_wait_s ?? 0,
      refused: this.refusedBefore === null ? 0 : Math.max(0, refused - this.refusedBefore),
      ended: this.lines.ended.length,
    });
    this.refusedBefore = refused;
    if (this.samples.length > SAMPLES) this.samples.shift();
  }
}

export const live = new Live();
