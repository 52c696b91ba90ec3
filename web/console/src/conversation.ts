/** A session's history, and what the run that executes adds to it at this moment. */
import { useCallback, useEffect, useReducer, useState } from "preact/hooks";
import { events, pause, read, runPath, sessionPath } from "./api";
import type { Shown } from "./messages";
import type { ApiMessage, Event } from "./shapes";

const PAGE = 60;

interface History {
  messages: Shown[];
  next_cursor: string | null;
}

/** The latest messages, and what reads those before them; `turn` changes when they have to be read again. */
export function useHistory(id: string, turn: unknown): { messages: Shown[]; earlier: (() => void) | null } {
  const [pages, setPages] = useState<History>({ messages: [], next_cursor: null });
  const [count, setCount] = useState(PAGE);
  useEffect(() => {
    let isCurrent = true;
    void read<History>(`${sessionPath(id)}/history?limit=${count}`).then(
      (page) => isCurrent && setPages(page),
      () => {}, // the session does not exist yet, or the connection is lost, which the page says
    );
    return () => {
      isCurrent = false;
    };
  }, [id, turn, count]);
  return { messages: pages.messages, earlier: pages.next_cursor !== null && count < 1000 ? () => setCount(Math.min(1000, count + 2 * PAGE)) : null };
}

/** What a run has said so far: whole messages, and the text that the model writes. Null: no run executes. */
export interface Draft {
  run: string;
  messages: ApiMessage[];
  text: string;
}

export function useDraft(run: string | null): Draft | null {
  const [draft, apply] = useReducer(reduced, null);
  const follow = useCallback(async (id: string, signal: AbortSignal): Promise<void> => {
    let after: string | undefined;
    while (!signal.aborted) {
      try {
        let piece = "";
        let timer = 0;
        const flush = (): void => {
          clearTimeout(timer);
          timer = 0;
          if (piece) apply({ kind: "text", text: piece });
          piece = "";
        };
        for await (const { id: number, data } of events(`${runPath(id)}/events`, after, signal)) {
          after = number ?? after;
          const event = JSON.parse(data) as Event;
          if (event.type === "text.delta") {
            piece += String(event["text"]);
            timer ||= window.setTimeout(flush, 80);
            continue;
          }
          flush();
          apply({ kind: "event", event });
          if (event.type === "run.finished") return;
        }
        return;
      } catch {
        await pause(1_000, signal);
      }
    }
  }, []);
  useEffect(() => {
    const stopped = new AbortController();
    apply({ kind: "begin", run });
    if (run !== null) void follow(run, stopped.signal);
    return () => stopped.abort();
  }, [run, follow]);
  return draft;
}

type Change = { kind: "begin"; run: string | null } | { kind: "text"; text: string } | { kind: "event"; event: Event };

function reduced(draft: Draft | null, change: Change): Draft | null {
  if (change.kind === "begin") return change.run === null ? null : { run: change.run, messages: [], text: "" };
  if (draft === null) return null;
  if (change.kind === "text") return { ...draft, text: draft.text + change.text };
  switch (change.event.type) {
    case "run.restarted":
      return { ...draft, messages: change.event["messages"] as ApiMessage[], text: "" };
    case "text.reset":
      return { ...draft, text: "" };
    case "message.added":
      return { ...draft, messages: [...draft.messages, change.event["message"] as ApiMessage], text: "" };
    default:
      return draft;
  }
}
