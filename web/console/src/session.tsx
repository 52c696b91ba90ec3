/** The view of one session. */
import type { JSX } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { Refused, call, read, sessionPath } from "./api";
import { live } from "./live";
import { RunTable } from "./runs";
import type { ApiRun, ApiRuns, ApiSession } from "./shapes";
import { Badge, Icon, act } from "./ui";

export function SessionView({ id }: { id: string }): JSX.Element {
  const { session, runs, problem, again } = useSession(id);
  if (problem) return <p class="nothing">{problem}</p>;
  if (session === null) return <p class="nothing">Reading the session…</p>;
  return (
    <>
      <SessionHead session={session} onChange={again} />
      <section aria-label="Runs">
        {runs.length ? <RunTable runs={runs} onChange={again} /> : <p class="nothing">No run of this session is kept.</p>}
      </section>
    </>
  );
}

export function SessionHead({ session, onChange }: { session: ApiSession; onChange: () => void }): JSX.Element {
  const path = sessionPath(session.session_id);
  const busy = session.queue_depth > 0 || session.running !== null;
  return (
    <header class="head">
      <a class="up" href="#/" aria-label="Back to all sessions">
        <Icon name="back" />
      </a>
      <h1>{session.session_id}</h1>
      {session.running && <Badge kind="running">executing</Badge>}
      {session.queue_depth > 0 && <Badge kind="queued">{session.queue_depth} waiting</Badge>}
      {session.paused && <Badge kind="paused">paused</Badge>}
      {session.input_requests.length > 0 && <Badge kind="needs_input">asks a person</Badge>}
      {session.locked_by && <Badge kind="failed">locked</Badge>}
      <div class="does">
        <button type="button" onClick={() => void act(() => call("POST", `${path}/${session.paused ? "resume" : "pause"}`)).then(onChange)}>
          <Icon name={session.paused ? "play" : "pause"} /> {session.paused ? "Resume" : "Pause"}
        </button>
        {busy && (
          <button type="button" onClick={() => void act(() => call("POST", `${path}/cancel`, { running: true })).then(onChange)}>
            <Icon name="cancel" /> Cancel all
          </button>
        )}
      </div>
      {session.why && <p class="why">{session.why.text}</p>}
    </header>
  );
}

/** A session and its latest runs, read again when the feed tells of it. */
export function useSession(id: string): { session: ApiSession | null; runs: ApiRun[]; problem: string; again: () => void } {
  const [session, setSession] = useState<ApiSession | null>(null);
  const [runs, setRuns] = useState<ApiRun[]>([]);
  const [problem, setProblem] = useState("");
  const again = useCallback(async () => {
    try {
      const [found, listed] = await Promise.all([read<ApiSession>(sessionPath(id)), read<ApiRuns>(`${sessionPath(id)}/runs?limit=100`)]);
      setSession(found);
      setRuns(listed.runs);
      setProblem("");
    } catch (error) {
      if (error instanceof Refused && error.status === 404) setProblem("There is no such session.");
    }
  }, [id]);
  useEffect(() => {
    void again();
    let timer = 0;
    const soon = (): void => {
      timer ||= window.setTimeout(() => {
        timer = 0;
        void again();
      }, 150);
    };
    const stops = [live.hear((event) => event.session_id === id && soon()), live.whenOpen(soon)];
    return () => {
      clearTimeout(timer);
      for (const stop of stops) stop();
    };
  }, [id, again]);
  return { session, runs, problem, again: () => void again() };
}
