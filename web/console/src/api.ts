/** The server, as the page sees it: requests with the tab's key, and streams of events. Knows nothing of views. */
import { EventSourceParserStream } from "eventsource-parser/stream";

const KEY = "strandline-key";
const SILENT_MS = 40_000; // the server sends a comment every 15 seconds

/** An answer that is an error: its status, the server's code for it, and what to do as the message. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

export interface Sent {
  id: string | undefined;
  data: string;
}

let key = stored();
let onRefusedKey: () => void = () => {};

function stored(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing: the key lives as long as the page
  }
}

export const hasKey = (): boolean => key !== null;

/** Keeps a key for this tab only; null forgets it. */
export function setKey(value: string | null): void {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // as above
  }
}

export function whenKeyIsRefused(then: () => void): void {
  onRefusedKey = then;
}

async function answered(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key !== null) headers.set("Authorization", `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string };
  if (response.status === 401) onRefusedKey();
  throw new Refused(response.status, problem.code ?? "error", problem.detail ?? `the server answers ${response.status}`);
}

/** Returns the JSON of an answer, null if it has none. Throws `Refused`, or a `TypeError` without a connection. */
export async function call<T>(method: string, path: string, body?: unknown, more: RequestInit = {}): Promise<T> {
  const init: RequestInit = { ...more, method };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json", ...more.headers };
  }
  const response = await answered(path, init);
  return (response.status === 204 ? null : await response.json()) as T;
}

export const read = <T>(path: string, more?: RequestInit): Promise<T> => call<T>("GET", path, undefined, more);

/** The state of the server, also if it says by its status that it is not ready, and how far its clock is ahead in ms. */
export async function health<T>(): Promise<{ state: T; ahead: number }> {
  const headers = new Headers(key === null ? {} : { Authorization: `Bearer ${key}` });
  const response = await fetch("health", { headers, credentials: "omit", cache: "no-store" });
  const ahead = Date.parse(response.headers.get("Date") ?? "") - Date.now();
  // The header has whole seconds, so a small difference says nothing.
  return { state: (await response.json()) as T, ahead: Math.abs(ahead) > 2_000 ? ahead : 0 };
}

/** Sends a file, and returns what the server says of it. */
export const upload = async <T>(path: string, file: File): Promise<T> =>
  (await answered(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } })).json();

/** Yields the events of a stream after one's id, until it ends. It fails if the server is silent for too long. */
export async function* events(path: string, after: string | undefined, signal: AbortSignal, opened = () => {}): AsyncGenerator<Sent> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENT_MS);
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (after !== undefined) headers["Last-Event-ID"] = after;
  try {
    const response = await answered(path, { headers, signal: AbortSignal.any([signal, silence.signal]) });
    if (response.body === null || response.status === 204) return;
    opened();
    const heard = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENT_MS);
        controller.enqueue(chunk);
      },
    });
    const parsed = response.body
      .pipeThrough(heard)
      .pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
      .pipeThrough(new EventSourceParserStream());
    const reader = parsed.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield { id: value.id, data: value.data };
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Returns after some milliseconds, or at once when the signal is given. */
export const pause = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

export const sessionPath = (id: string): string => `v1/sessions/${encodeURIComponent(id)}`;
export const runPath = (id: string): string => `v1/runs/${encodeURIComponent(id)}`;
