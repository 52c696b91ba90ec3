/** The view *Operations*: the server in numbers, workers, callers, schedules, and events that could not be sent. */
import type { ComponentChildren, JSX } from "preact";
import { useCallback, useEffect, useState } from "preact/hooks";
import { call, read } from "./api";
import { live } from "./live";
import { act, lasted, runLink, sessionLink, useLive } from "./ui";

interface Schedule {
  schedule_id: string;
  session_id: string;
  cron?: string | null;
  every?: number | null;
  at?: string | null;
  timezone?: string | null;
  paused: boolean;
  next: string[];
  last_run: string | null;
  last_error: string | null;
  missed_count: number;
}

interface Delivery {
  id: string;
  type: string;
  status: string;
  run_id: string | null;
  session_id: string;
  url: string | null;
  error: string | null;
}

export function Operations(): JSX.Element {
  useLive();
  const [schedules, readSchedules] = useList<Schedule>("v1/schedules?limit=100", "schedules");
  const [deliveries, readDeliveries] = useList<Delivery>("v1/webhooks?limit=100", "webhooks");
  const seen = live.health;
  if (seen === null) return <p class="nothing">Reading…</p>;
  const facts: [string, ComponentChildren, boolean?][] = [
    ["Version", seen.version],
    ["Ready", seen.ready ? "yes" : "no", !seen.ready],
    ["Executing", `${seen.running} of ${seen.max_running}`],
    ["Waiting", seen.queue_depth],
    ["Oldest wait", lasted((seen.oldest_wait_s ?? 0) * 1000)],
    ["Longest silence", lasted((seen.longest_no_progress_s ?? 0) * 1000), (seen.stalled ?? 0) > 0],
    ["Stalled runs", seen.stalled, (seen.stalled ?? 0) > 0],
    ["Locked sessions", seen.locked_sessions, (seen.locked_sessions ?? 0) > 0],
    ["Refused since the start", seen.refused_runs],
    ["Lost clients", seen.lost_clients],
    ["Agents in memory", seen.agents_in_memory],
    ...(seen.cluster ? ([["Servers", seen.cluster.servers], ["Partitions here", `${seen.cluster.partitions} of 256`]] as [string, ComponentChildren][]) : []),
  ];
  return (
    <>
      <header class="head">
        <h1>Operations</h1>
      </header>
      <dl class="facts">
        {facts.map(([name, value, isBad]) => (
          <div key={name} class={isBad ? "bad" : ""}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {seen.workers && (
        <Part name="Workers" columns={["Process", "Executing", "Silent for"]}>
          {seen.workers.map((worker, index) => (
            <tr key={index}>
              <td>{worker.pid ?? "starts"}</td>
              <td>{worker.running}</td>
              <td>{lasted(worker.silent_s * 1000)}</td>
            </tr>
          ))}
        </Part>
      )}
      {seen.callers && Object.keys(seen.callers).length > 0 && (
        <Part name="Callers" columns={["Caller", "Executing", "Waiting", "Tools of ended runs"]}>
          {Object.entries(seen.callers).map(([name, share]) => (
            <tr key={name}>
              <td>{name}</td>
              <td>{share.claimed}</td>
              <td>{share.waiting}</td>
              <td>{share.still_working}</td>
            </tr>
          ))}
        </Part>
      )}
      <Part name="Schedules" columns={["Session", "When", "Next", "Last run", ""]} empty={schedules.length === 0 ? "No schedule." : ""}>
        {schedules.map((each) => (
          <ScheduleRow key={each.schedule_id} schedule={each} onChange={readSchedules} />
        ))}
      </Part>
      <Part
        name="Events for webhooks"
        columns={["Event", "Status", "Run", ""]}
        empty={deliveries.length === 0 ? "None waits to be sent, and none is dead." : ""}
      >
        {deliveries.map((each) => (
          <tr key={each.id}>
            <td>
              {each.type}
              {each.url && <small class="why">{each.url}</small>}
              {each.error && <small class="why">{each.error}</small>}
            </td>
            <td>{each.status}</td>
            <td>
              {each.run_id && (
                <a href={runLink(each.run_id)}>
                  <code>{each.run_id}</code>
                </a>
              )}
            </td>
            <td class="does">
              <button
                type="button"
                onClick={() => void act(() => call("POST", `v1/webhooks/${encodeURIComponent(each.id)}/resend`, {}), "It is sent again").then(readDeliveries)}
              >
                Send again
              </button>
            </td>
          </tr>
        ))}
      </Part>
    </>
  );
}

function ScheduleRow({ schedule, onChange }: { schedule: Schedule; onChange: () => void }): JSX.Element {
  const path = `v1/schedules/${encodeURIComponent(schedule.schedule_id)}`;
  const when = schedule.cron ? `${schedule.cron} (${schedule.timezone ?? "UTC"})` : schedule.every ? `every ${lasted(schedule.every * 1000)}` : "once";
  return (
    <tr>
      <td>
        <a href={sessionLink(schedule.session_id)}>{schedule.session_id}</a>
        {schedule.last_error && <small class="why">{schedule.last_error}</small>}
      </td>
      <td>{when}</td>
      <td>{schedule.paused ? "paused" : schedule.next[0] ? new Date(schedule.next[0]).toLocaleString() : "–"}</td>
      <td>{schedule.last_run && <a href={runLink(schedule.last_run)}>run</a>}</td>
      <td class="does">
        <button type="button" onClick={() => void act(() => call("POST", `${path}/run`, {}), "Its run is accepted").then(onChange)}>
          Run now
        </button>{" "}
        <button type="button" onClick={() => void act(() => call("PATCH", path, { paused: !schedule.paused })).then(onChange)}>
          {schedule.paused ? "Resume" : "Pause"}
        </button>
      </td>
    </tr>
  );
}

function Part(props: { name: string; columns: string[]; empty?: string; children: ComponentChildren }): JSX.Element {
  return (
    <section aria-label={props.name} class="part">
      <h2 class="above">{props.name}</h2>
      {props.empty ? (
        <p class="note">{props.empty}</p>
      ) : (
        <div class="table" tabIndex={0}>
          <table>
            <thead>
              <tr>
                {props.columns.map((each) => (
                  <th key={each}>{each || <span class="unseen">Actions</span>}</th>
                ))}
              </tr>
            </thead>
            <tbody>{props.children}</tbody>
          </table>
        </div>
      )}
    </section>
  );
}

/** A list that is read at first, every five seconds, and when it is asked for. */
function useList<T>(path: string, name: string): [T[], () => void] {
  const [found, setFound] = useState<T[]>([]);
  const again = useCallback(async () => {
    try {
      setFound((await read<Record<string, T[]>>(path))[name] ?? []);
    } catch {
      // the page says that the connection is lost, or what is missing
    }
  }, [path, name]);
  useEffect(() => {
    void again();
    const timer = setInterval(() => document.hidden || void again(), 5_000);
    return () => clearInterval(timer);
  }, [again]);
  return [found, () => void again()];
}
