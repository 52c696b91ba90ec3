/** The view of one run. */
import type { JSX } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { Refused, call, read, runPath } from "./api";
import { live } from "./live";
import { timesOf } from "./runs";
import type { ApiRun } from "./shapes";
import { Badge, Icon, STATUS, act, lasted, sessionLink, timeOf } from "./ui";

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
        <div class="does">
          {run.status === "queued" && (
            <button type="button" onClick={() => void act(() => call("POST", `${runPath(id)}/move`, { front: true })).then(again)}>
              <Icon name="front" /> To the front
            </button>
          )}
          {["queued", "running", "needs_input"].includes(run.status) && (
            <button type="button" onClick={() => void act(() => call("POST", `${runPath(id)}/cancel`, {})).then(again)}>
              <Icon name="cancel" /> Cancel
            </button>
          )}
        </div>
        {run.why && <p class="why">{run.why.text}</p>}
      </header>
      <Facts run={run} />
      {run.error && (
        <section class="card bad" aria-label="Error">
          <h2>{run.error.code}</h2>
          <p class="plain">{run.error.detail}</p>
        </section>
      )}
      {run.output && (
        <section class="card" aria-label="Answer">
          <h2>Answer</h2>
          <p class="plain">{run.output}</p>
        </section>
      )}
    </>
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
