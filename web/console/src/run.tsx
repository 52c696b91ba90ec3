/** The view of one run. */
import type { JSX } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { Refused, call, read, runPath } from "./api";
import { live } from "./live";
import { Markdown } from "./markdown";
import { Asked } from "./questions";
import { timesOf } from "./runs";
import type { ApiRun } from "./shapes";
import { Badge, Icon, STATUS, act, lasted, runLink, sessionLink, timeOf } from "./ui";

export function RunView({ id }: { id: string }): JSX.Element {
  const { run, problem, again } = useRun(id);
  if (problem) return <p class="nothing">{problem}</p>;
  if (run === null) return <p class="nothing">Reading the run…</p>;
  return (
    <>
      <header class="head">
        <a class="up" href={sessionLink(run.session_id)} aria-label={`Back to ${run.session_id}`}>
          <Icon name="back" />
        </a>
        <h1>
          <code>{run.run_id}</code>
        </h1>
        <Badge kind={run.status}>{STATUS[run.status]}</Badge>
        <Actions run={run} onChange={again} />
        {run.why && <p class="why">{run.why.text}</p>}
      </header>
      <Course run={run} />
      <Facts run={run} />
      {run.status === "needs_input" && run.why && <Asked session={run.session_id} requests={run.input_requests} onChange={again} />}
      {run.status === "queued" && run.attempt === 0 && <Edit run={run} onChange={again} />}
      {run.error && (
        <section class="card bad" aria-label="Error">
          <h2>{run.error.code}</h2>
          <p class="plain">{run.error.detail}</p>
        </section>
      )}
      {run.error?.code === "crashed" && <Resolve id={id} />}
      {run.output && (
        <section class="card" aria-label="Answer">
          <h2>Answer</h2>
          <Markdown text={run.output} />
        </section>
      )}
    </>
  );
}

function Actions({ run, onChange }: { run: ApiRun; onChange: () => void }): JSX.Element {
  const path = runPath(run.run_id);
  const isOpen = ["queued", "running", "needs_input"].includes(run.status);
  const does = (what: string, body: unknown): void => void act(() => call("POST", `${path}/${what}`, body)).then(onChange);
  const replace = async (): Promise<void> => {
    await act(async () => {
      const next = await call<ApiRun>("POST", `${path}/again`, {});
      location.hash = runLink(next.run_id);
    });
  };
  return (
    <div class="does">
      {run.status === "queued" && (
        <button type="button" onClick={() => does("move", { front: true })}>
          <Icon name="front" /> To the front
        </button>
      )}
      {isOpen && !run.cancel_requested && (
        <button type="button" onClick={() => does("cancel", {})}>
          <Icon name="cancel" /> Cancel
        </button>
      )}
      {(run.locks_session || run.cancel_requested) && (run.locks_session || isOpen) && (
        <button type="button" title="Unlock the session without waiting for its tool" onClick={() => does("cancel", { force: true })}>
          Unlock by force
        </button>
      )}
      {!isOpen && (
        <button type="button" title="Continue the conversation from where this run began, with the same input" onClick={() => void replace()}>
          Again
        </button>
      )}
    </div>
  );
}

/** How long it waited and executed, as one bar. */
function Course({ run }: { run: ApiRun }): JSX.Element | null {
  const { waited, executed } = timesOf(run);
  const [waits, executes] = [Math.max(0, waited), Number.isNaN(executed) ? 0 : Math.max(0, executed)];
  const whole = waits + executes;
  if (!(whole > 0)) return null;
  const share = Math.min(98, Math.max(2, (waits / whole) * 100));
  return (
    <div class="course-of-run" role="img" aria-label={`Waited ${lasted(waits)}, executed ${lasted(executes)}`}>
      <i class="waits" style={{ width: `${executes ? share : 100}%` }} />
      {executes > 0 && <i class={run.status} style={{ width: `${100 - share}%` }} />}
    </div>
  );
}

function Edit({ run, onChange }: { run: ApiRun; onChange: () => void }): JSX.Element {
  const [text, setText] = useState("");
  const save = (event: SubmitEvent): void => {
    event.preventDefault();
    void act(() => call("PATCH", runPath(run.run_id), { input: text }), "Changed").then((worked) => {
      if (worked) setText("");
      onChange();
    });
  };
  return (
    <details class="card">
      <summary>Replace its message</summary>
      <form class="edit" onSubmit={save}>
        <textarea rows={3} aria-label="Another message" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        <button class="primary" type="submit" disabled={!text.trim()}>
          Replace
        </button>
      </form>
    </details>
  );
}

interface OpenTool {
  tool_use_id: string;
  name: string;
  input: unknown;
}

/** What a person has to find out before a crashed run continues. */
function Resolve({ id }: { id: string }): JSX.Element | null {
  const [tools, setTools] = useState<OpenTool[]>([]);
  const [found, setFound] = useState<Record<string, string>>({});
  useEffect(() => {
    void read<{ tools: OpenTool[] }>(`${runPath(id)}/resolve`).then(
      (answer) => setTools(answer.tools),
      () => {}, // it has been resolved, or another run has begun since
    );
  }, [id]);
  if (!tools.length) return null;
  const send = (event: SubmitEvent): void => {
    event.preventDefault();
    void act(async () => {
      const outcomes = tools.map((tool) => ({ tool_use_id: tool.tool_use_id, outcome: found[tool.tool_use_id] }));
      const next = await call<ApiRun>("POST", `${runPath(id)}/resolve`, { tools: outcomes });
      location.hash = runLink(next.run_id);
    });
  };
  return (
    <form class="card asked" aria-label="Continue the run" onSubmit={send}>
      <h2>The server does not know whether these tools have acted. Find out, and the run continues.</h2>
      {tools.map((tool) => (
        <fieldset key={tool.tool_use_id}>
          <legend>
            <code>{tool.name}</code>
          </legend>
          <pre tabIndex={0}>{JSON.stringify(tool.input, null, 2)}</pre>
          <div class="answers">
            {[
              ["done", "It has acted"],
              ["not_done", "It has not: start it again"],
            ].map(([outcome, name]) => (
              <button
                key={outcome}
                type="button"
                aria-pressed={found[tool.tool_use_id] === outcome}
                onClick={() => setFound({ ...found, [tool.tool_use_id]: outcome! })}
              >
                {name}
              </button>
            ))}
          </div>
        </fieldset>
      ))}
      <button class="primary" type="submit" disabled={tools.some((tool) => !found[tool.tool_use_id])}>
        Continue
      </button>
    </form>
  );
}

function Facts({ run }: { run: ApiRun }): JSX.Element {
  const { accepted, started, ended, waited, executed } = timesOf(run);
  const tokens = run.usage && Object.entries(run.usage).find(([name]) => /total/i.test(name))?.[1];
  const facts: [string, JSX.Element | string | number | null | undefined][] = [
    ["Session", <a href={sessionLink(run.session_id)}>{run.session_id}</a>],
    ["Phase", run.phase],
    ["Position", run.position],
    ["Likely wait", run.estimated_wait_s === null ? null : lasted(run.estimated_wait_s * 1000)],
    ["Accepted", timeOf(accepted)],
    ["Not before", run.not_before && new Date(run.not_before).toLocaleString()],
    ["Started", Number.isNaN(started) ? null : timeOf(started)],
    ["Ended", Number.isNaN(ended) ? null : timeOf(ended)],
    ["Waited", lasted(waited)],
    ["Executed", Number.isNaN(started) ? null : lasted(executed)],
    ["Attempt", run.attempt > 1 ? run.attempt : null],
    ["Priority", run.priority],
    ["If busy", run.if_busy],
    ["Sender", run.sender?.name ?? run.sender?.id],
    ["Tokens", tokens],
  ];
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

/** A run, read again when the feed tells of it. */
export function useRun(id: string): { run: ApiRun | null; problem: string; again: () => void } {
  const [run, setRun] = useState<ApiRun | null>(null);
  const [problem, setProblem] = useState("");
  const again = useCallback(async () => {
    try {
      setRun(await read<ApiRun>(runPath(id)));
      setProblem("");
    } catch (error) {
      if (error instanceof Refused && error.status === 404) setProblem("There is no such run, or it is not kept any more.");
    }
  }, [id]);
  useEffect(() => {
    void again();
    const stops = [live.hear((event) => event.run_id === id && void again()), live.whenOpen(() => void again())];
    return () => stops.forEach((stop) => stop());
  }, [id, again]);
  const moves = run?.status === "queued" || run?.status === "running";
  useEffect(() => {
    if (!moves) return;
    const timer = setInterval(() => live.connection === "open" && void again(), 2_000);
    return () => clearInterval(timer);
  }, [moves, again]);
  return { run, problem, again: () => void again() };
}
