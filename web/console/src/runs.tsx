/** Runs as a table, and what can be done with each. */
import type { JSX } from "preact";
import { call, runPath } from "./api";
import type { ApiRun } from "./shapes";
import { Badge, IconButton, STATUS, act, lasted, runLink, timeOf } from "./ui";
import { live } from "./live";

export function RunTable({ runs, onChange }: { runs: ApiRun[]; onChange: () => void }): JSX.Element {
  return (
    <div class="table">
      <table>
        <thead>
          <tr>
            <th>Run</th>
            <th>Status</th>
            <th>Accepted</th>
            <th class="number">Waited</th>
            <th class="number">Executed</th>
            <th>
              <span class="unseen">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <RunRow key={run.run_id} run={run} onChange={onChange} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function RunRow({ run, onChange }: { run: ApiRun; onChange: () => void }): JSX.Element {
  const { accepted, waited, executed } = timesOf(run);
  return (
    <tr>
      <td>
        <a href={runLink(run.run_id)}>
          <code>{run.run_id}</code>
        </a>
      </td>
      <td>
        <Badge kind={run.status}>{STATUS[run.status]}</Badge>
        {run.why && <small class="why">{run.why.text}</small>}
        {run.error && <small class="why">{run.error.code}</small>}
      </td>
      <td>{timeOf(accepted)}</td>
      <td class="number">{lasted(waited)}</td>
      <td class="number">{lasted(executed)}</td>
      <td class="does">
        {run.status === "queued" && (
          <IconButton
            icon="front"
            label={`Move ${run.run_id} to the front`}
            onClick={() => void act(() => call("POST", `${runPath(run.run_id)}/move`, { front: true })).then(onChange)}
          />
        )}
        {["queued", "running", "needs_input"].includes(run.status) && (
          <IconButton
            icon="cancel"
            label={`Cancel ${run.run_id}`}
            onClick={() => void act(() => call("POST", `${runPath(run.run_id)}/cancel`, {})).then(onChange)}
          />
        )}
      </td>
    </tr>
  );
}

/** When a run was accepted, and how long it has waited and executed so far, in milliseconds. */
export function timesOf(run: ApiRun): { accepted: number; started: number; ended: number; waited: number; executed: number } {
  const [accepted, started, ended] = [run.created_at, run.started_at, run.ended_at].map((each) => Date.parse(each ?? ""));
  const until = Number.isNaN(ended!) ? live.now() : ended!;
  const from = Number.isNaN(started!) ? until : started!;
  return { accepted: accepted!, started: started!, ended: ended!, waited: from - accepted!, executed: until - started! };
}
