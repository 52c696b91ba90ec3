/** Small parts that all views use. */
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import { Refused } from "./api";
import { live } from "./live";

/** Draws a view again when something has changed. */
export function useLive(): void {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => live.subscribe(() => again(undefined as never)), []);
}

let say: (text: string, isBad: boolean) => void = () => {};

/** Tells the user something, for a few seconds. */
export const tell = (text: string, isBad = false): void => say(text, isBad);

/** Runs an action of the user; an error of it is told. Returns whether it worked. */
export async function act(work: () => Promise<unknown>, done?: string): Promise<boolean> {
  try {
    await work();
    if (done) tell(done);
    return true;
  } catch (error) {
    tell(error instanceof Refused ? error.message : "No connection to the server", true);
    return false;
  }
}

export function Told(): JSX.Element {
  const [told, set] = useState<{ text: string; isBad: boolean } | null>(null);
  const timer = useRef(0);
  useEffect(() => {
    say = (text, isBad) => {
      set({ text, isBad });
      clearTimeout(timer.current);
      timer.current = window.setTimeout(() => set(null), isBad ? 8_000 : 3_000);
    };
  }, []);
  return (
    <div class="told" role="status" aria-live="polite">
      {told && <p class={told.isBad ? "bad" : ""}>{told.text}</p>}
    </div>
  );
}

const PATHS: Record<string, string> = {
  pause: "M6 4v8M10 4v8",
  play: "M5 3.5v9l7-4.5z",
  cancel: "M4 4l8 8M12 4l-8 8",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M10.5 10.5l3 3",
  key: "M10.5 2.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6M8.4 7.6L2.5 13.5M4.5 11.5l1.5 1.5",
  back: "M9.5 3.5L5 8l4.5 4.5",
  front: "M8 13V3M4 7l4-4 4 4",
  send: "M2.5 8h11M9 3.5L13.5 8 9 12.5",
};

export const Icon = ({ name }: { name: keyof typeof PATHS }): JSX.Element => (
  <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
    <path d={PATHS[name]!} />
  </svg>
);

interface IconButtonProps {
  icon: keyof typeof PATHS;
  label: string;
  onClick: () => void;
}

export const IconButton = ({ icon, label, onClick }: IconButtonProps): JSX.Element => (
  <button class="icon-button" type="button" aria-label={label} title={label} onClick={onClick}>
    <Icon name={icon} />
  </button>
);

export const Badge = ({ kind, children }: { kind: string; children: ComponentChildren }): JSX.Element => (
  <span class={`badge ${kind}`}>{children}</span>
);

/** A figure with the course of its last minutes. */
export function Figure(props: { name: string; value: string; of?: string | undefined; course: number[]; kind?: string }): JSX.Element {
  const { name, value, of, course, kind } = props;
  return (
    <div class={`figure ${kind ?? ""}`}>
      <dt>{name}</dt>
      <dd>
        {value}
        {of && <small> {of}</small>}
      </dd>
      <Course values={course} />
    </div>
  );
}

function Course({ values }: { values: number[] }): JSX.Element {
  const [width, height, most] = [150, 30, Math.max(1, ...values)];
  const first = width - values.length + 1;
  const points = values.map((value, index) => `${first + index},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`);
  return (
    <svg class="course" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
      {points.length > 1 && <path class="area" d={`M${first},${height} L${points.join(" L")} L${width},${height} Z`} />}
      {points.length > 1 && <polyline points={points.join(" ")} vector-effect="non-scaling-stroke" />}
    </svg>
  );
}

/** Milliseconds, as people say them. */
export function lasted(ms: number): string {
  if (Number.isNaN(ms)) return "–";
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 6_000) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} days`;
}

export const timeOf = (at: number): string => (Number.isNaN(at) ? "–" : new Date(at).toLocaleTimeString());

export const STATUS: Record<string, string> = {
  queued: "waiting",
  running: "executing",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "cancelled",
  needs_input: "asks a person",
};

export const sessionLink = (id: string): string => `#/sessions/${encodeURIComponent(id)}`;
export const runLink = (id: string): string => `#/runs/${encodeURIComponent(id)}`;
