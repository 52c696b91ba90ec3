/** The view of one session: its conversation, what it asks, what waits, and where to write. */
import type { JSX } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Refused, call, read, runPath, sessionPath } from "./api";
import { Composer, sent } from "./composer";
import { useDraft, useHistory } from "./conversation";
import { live } from "./live";
import { Markdown } from "./markdown";
import { Messages } from "./messages";
import { Asked } from "./questions";
import { RunTable } from "./runs";
import type { ApiRun, ApiRuns, ApiSession } from "./shapes";
import { Badge, Icon, IconButton, act, runLink } from "./ui";

const NAME = /^[A-Za-z0-9._:@-]{1,256}$/;

export function SessionView({ id }: { id: string }): JSX.Element {
  const { session, runs, isNew, again } = useSession(id);
  const [tab, setTab] = useState<"conversation" | "runs">("conversation");
  if (!NAME.test(id)) return <p class="nothing">A session's name has 1 to 256 of A-Z a-z 0-9 . _ : @ -</p>;
  if (session === null && !isNew) return <p class="nothing">Reading the session…</p>;
  return (
    <>
      {session ? <SessionHead session={session} onChange={again} /> : <NewHead id={id} />}
      <div class="chips tabs" role="group" aria-label="What to show">
        {(["conversation", "runs"] as const).map((each) => (
          <button key={each} type="button" aria-pressed={tab === each} onClick={() => setTab(each)}>
            {each === "runs" ? `Runs ${runs.length || ""}` : "Conversation"}
          </button>
        ))}
      </div>
      {tab === "conversation" ? (
        <Conversation id={id} session={session} runs={runs} onChange={again} />
      ) : runs.length ? (
        <RunTable runs={runs} onChange={again} />
      ) : (
        <p class="nothing">No run of this session is kept.</p>
      )}
    </>
  );
}

const NewHead = ({ id }: { id: string }): JSX.Element => (
  <header class="head">
    <a class="up" href="#/" aria-label="Back to all sessions">
      <Icon name="back" />
    </a>
    <h1>{id}</h1>
    <Badge kind="queued">new</Badge>
  </header>
);

function Conversation(props: { id: string; session: ApiSession | null; runs: ApiRun[]; onChange: () => void }): JSX.Element {
  const { id, session, runs, onChange } = props;
  const executing = session?.running ?? null;
  const ended = runs.find((run) => run.ended_at !== null)?.run_id;
  const { messages, earlier } = useHistory(id, `${ended} ${executing} ${session?.messages}`);
  const draft = useDraft(executing);
  const end = useRef<HTMLDivElement>(null);
  const isLive = draft !== null && draft.run === executing;
  const said = isLive && draft.messages.length > 0 ? messages.filter((each) => each.run_id !== draft.run) : messages;
  const waiting = runs.filter((run) => run.status === "queued").sort((one, other) => (one.position ?? 1e9) - (other.position ?? 1e9));
  useEffect(() => {
    const { scrollHeight } = document.documentElement;
    if (scrollY + innerHeight > scrollHeight - 400 || messages.length <= 60) end.current?.scrollIntoView({ block: "end" });
  }, [messages.length, draft?.messages.length, draft?.text.length]);
  return (
    <div class="conversation">
      <div class="log" role="log" aria-label="Conversation" aria-live="polite">
        {earlier && (
          <button class="quiet" type="button" onClick={earlier}>
            Earlier messages
          </button>
        )}
        {!said.length && !isLive && !waiting.length && <p class="nothing">No message yet.</p>}
        <Messages messages={said} executing={executing !== null} />
        {isLive && <Messages messages={draft.messages.map((each) => ({ ...each, run_id: draft.run }))} executing />}
        {isLive && (
          <article class="message assistant writing" aria-busy="true">
            <header>
              <b>Agent</b>
              <span class="dots" aria-label="is at work" role="img">
                <i />
                <i />
                <i />
              </span>
            </header>
            {draft.text && <Markdown text={draft.text} />}
          </article>
        )}
      </div>
      {session && session.input_requests.length > 0 && <Asked session={id} requests={session.input_requests} onChange={onChange} />}
      {waiting.length > 0 && (
        <section class="queue" aria-label="What waits">
          <h2>Waits</h2>
          <ol>
            {waiting.map((run) => (
              <Waiting key={run.run_id} run={run} onChange={onChange} />
            ))}
          </ol>
        </section>
      )}
      <Composer session={id} onSent={onChange} />
      <div ref={end} class="end" />
    </div>
  );
}

function Waiting({ run, onChange }: { run: ApiRun; onChange: () => void }): JSX.Element {
  const path = runPath(run.run_id);
  return (
    <li>
      <b>{run.position ?? "–"}</b>
      <a href={runLink(run.run_id)}>{sent.get(run.run_id) ?? run.sender?.name ?? run.run_id}</a>
      <small class="why">{run.why?.text}</small>
      <IconButton icon="front" label="To the front" onClick={() => void act(() => call("POST", `${path}/move`, { front: true })).then(onChange)} />
      <IconButton icon="cancel" label={`Cancel ${run.run_id}`} onClick={() => void act(() => call("POST", `${path}/cancel`, {})).then(onChange)} />
    </li>
  );
}

function SessionHead({ session, onChange }: { session: ApiSession; onChange: () => void }): JSX.Element {
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
        {session.locked_by && (
          <button type="button" onClick={() => void act(() => call("POST", `${path}/cancel`, { force: true })).then(onChange)}>
            Unlock by force
          </button>
        )}
      </div>
      {session.why && <p class="why">{session.why.text}</p>}
    </header>
  );
}

/** A session and its latest runs, read again when the feed tells of it. `isNew`: there is none of this name yet. */
function useSession(id: string): { session: ApiSession | null; runs: ApiRun[]; isNew: boolean; again: () => void } {
  const [session, setSession] = useState<ApiSession | null>(null);
  const [runs, setRuns] = useState<ApiRun[]>([]);
  const [isNew, setNew] = useState(false);
  const again = useCallback(async () => {
    try {
      const [found, listed] = await Promise.all([read<ApiSession>(sessionPath(id)), read<ApiRuns>(`${sessionPath(id)}/runs?limit=100`)]);
      setSession(found);
      setRuns(listed.runs);
      setNew(false);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) return;
      setSession(null);
      setRuns([]);
      setNew(true);
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
  return { session, runs, isNew, again: () => void again() };
}
