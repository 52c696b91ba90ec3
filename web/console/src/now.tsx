/** The view *Now*: the state of the server in figures, and a lane for each session. */
import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { call, sessionPath } from "./api";
import { type Filter, type Line, type Run, stateOf } from "./lines";
import { live } from "./live";
import { Painter, type Place, marks, runAt } from "./painter";
import { Figure, Icon, IconButton, STATUS, act, lasted, runLink, sessionLink, useLive } from "./ui";

const SPANS = [
  { ms: 30_000, text: "30 s" },
  { ms: 120_000, text: "2 min" },
  { ms: 600_000, text: "10 min" },
];
const FILTERS: { filter: Filter; text: string }[] = [
  { filter: "all", text: "All" },
  { filter: "running", text: "Executing" },
  { filter: "waiting", text: "Waiting" },
  { filter: "asks", text: "Asking" },
  { filter: "paused", text: "Paused" },
  { filter: "failed", text: "Failed" },
];
const NAME = /^[A-Za-z0-9._:@-]{1,256}$/;
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const BEYOND = 6; // rows that are there above and below those in view

export function Now(): JSX.Element {
  useLive();
  const [filter, setFilter] = useState<Filter>("all");
  const [search, setSearch] = useState("");
  const [span, setSpan] = useState(30_000);
  const box = useRef<HTMLInputElement>(null);
  const counts = live.lines.counts();
  const lines = live.lines.shown(filter, search, live.now());
  useEffect(() => {
    const focus = (event: KeyboardEvent): void => {
      if (event.key !== "/" || /INPUT|TEXTAREA|SELECT/.test((event.target as HTMLElement).tagName)) return;
      event.preventDefault();
      box.current?.focus();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  return (
    <>
      <h1 class="unseen">Now</h1>
      <Figures />
      <section class="lanes" aria-label="Sessions">
        <div class="tools">
          <div class="chips" role="group" aria-label="Which sessions">
            {FILTERS.map((each) => (
              <button key={each.filter} type="button" aria-pressed={filter === each.filter} onClick={() => setFilter(each.filter)}>
                {each.text} <span>{counts[each.filter]}</span>
              </button>
            ))}
          </div>
          <label class="search">
            <Icon name="search" />
            <input
              ref={box}
              type="search"
              placeholder="Find a session"
              aria-label="Find a session"
              value={search}
              onInput={(event) => setSearch(event.currentTarget.value)}
            />
          </label>
          <div class="chips spans" role="group" aria-label="How far back">
            {SPANS.map((each) => (
              <button key={each.ms} type="button" aria-pressed={span === each.ms} onClick={() => setSpan(each.ms)}>
                {each.text}
              </button>
            ))}
          </div>
        </div>
        {lines.length > 0 ? <Lanes lines={lines} span={span} /> : <Nothing search={search} filter={filter} />}
        <Legend />
        {live.isCut && <p class="note">These are the first 5,000 sessions.</p>}
      </section>
    </>
  );
}

function Figures(): JSX.Element {
  const { health, samples } = live;
  const refused = samples.reduce((sum, each) => sum + each.refused, 0);
  const last = samples.at(-1);
  return (
    <dl class="figures" aria-label="The server">
      <Figure
        name="Executing"
        value={String(health?.running ?? "–")}
        of={health?.max_running === undefined ? undefined : `of ${health.max_running}`}
        course={samples.map((each) => each.running)}
      />
      <Figure name="Waiting" value={String(health?.queue_depth ?? "–")} course={samples.map((each) => each.waiting)} />
      <Figure name="Oldest wait" value={last ? lasted(last.oldest * 1000) : "–"} course={samples.map((each) => each.oldest)} />
      <Figure name="Ended" value={String(last?.ended ?? "–")} of="per min" course={samples.map((each) => each.ended)} />
      <Figure
        name="Refused"
        value={String(refused)}
        of="in 5 min"
        course={samples.map((each) => each.refused)}
        kind={refused ? "bad" : ""}
      />
    </dl>
  );
}

const Legend = (): JSX.Element => (
  <ul class="legend" aria-label="Colours">
    {["waits", "executes", "succeeded", "asks", "failed", "cancelled"].map((each) => (
      <li key={each}>
        <i class={each} />
        {each}
      </li>
    ))}
  </ul>
);

function Nothing({ search, filter }: { search: string; filter: Filter }): JSX.Element {
  if (live.connection === "opening") return <p class="nothing">Reading sessions…</p>;
  if (NAME.test(search)) {
    return (
      <p class="nothing">
        No session is called that. <a href={sessionLink(search)}>Begin {search}</a>
      </p>
    );
  }
  if (search || filter !== "all") return <p class="nothing">No session is like that at the moment.</p>;
  const example = `curl -s ${location.origin}/chat -d '{"session_id": "my-session", "message": "hello"}'`;
  return (
    <div class="nothing">
      <p>No session yet. Each conversation gets a lane here with its first message.</p>
      <pre>{example}</pre>
      <p>
        Or <a href={sessionLink("my-session")}>write to it here</a>.
      </p>
    </div>
  );
}

interface Hover {
  run: Run;
  x: number;
  y: number;
}

function Lanes({ lines, span }: { lines: Line[]; span: number }): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const shown = useRef({ lines, span });
  const place = useRef<Place | null>(null);
  const [[first, last], setRange] = useState<[number, number]>([0, 40]);
  const [hover, setHover] = useState<Hover | null>(null);
  shown.current = { lines, span };

  useEffect(() => {
    const painter = new Painter(canvas.current!);
    let asked = 0;
    let lastPaint = 0;
    const frame = (at: number): void => {
      asked = requestAnimationFrame(frame);
      if (CALM.matches && at - lastPaint < 1_000) return;
      lastPaint = at;
      const found = scroller.current && measured(scroller.current);
      if (found === null) return;
      place.current = found;
      setRange((old) => {
        const range: [number, number] = [Math.max(0, found.first - BEYOND), found.last + BEYOND];
        return old[0] === range[0] && old[1] === range[1] ? old : range;
      });
      painter.paint(shown.current.lines, found, live.now(), shown.current.span);
    };
    asked = requestAnimationFrame(frame);
    const themed = (): void => painter.themed();
    DARK.addEventListener("change", themed);
    return () => {
      cancelAnimationFrame(asked);
      DARK.removeEventListener("change", themed);
    };
  }, []);

  const at = (event: MouseEvent): Hover | null => {
    const bounds = scroller.current!.getBoundingClientRect();
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    const run = place.current && runAt(lines, place.current, x, y, live.now(), span);
    return run ? { run, x, y } : null;
  };
  return (
    <div class="board">
      <Axis span={span} />
      <div
        class="scroller"
        ref={scroller}
        tabIndex={-1}
        onMouseMove={(event) => setHover(at(event))}
        onMouseLeave={() => setHover(null)}
        onClick={(event) => {
          const found = at(event);
          if (found && !(event.target as HTMLElement).closest("a,button")) location.hash = runLink(found.run.id);
        }}
      >
        <canvas ref={canvas} aria-hidden="true" />
        <ul class="rows" style={{ height: `calc(var(--row) * ${lines.length})` }}>
          {lines.slice(first, last).map((line, index) => (
            <Row key={line.id} line={line} place={first + index} of={lines.length} />
          ))}
        </ul>
        {hover && <Tip {...hover} />}
      </div>
    </div>
  );
}

/** Where the rows in view are; null while nothing is laid out. */
function measured(scroller: HTMLElement): Place | null {
  const sample = scroller.querySelector<HTMLElement>("li");
  const track = sample?.querySelector<HTMLElement>(".track");
  if (!sample || !track) return null;
  const row = sample.offsetHeight;
  const { scrollTop, clientHeight, clientWidth } = scroller;
  return {
    width: clientWidth,
    height: clientHeight,
    left: track.offsetLeft,
    track: track.offsetWidth,
    top: track.offsetTop,
    row,
    scrolled: scrollTop,
    first: Math.floor(scrollTop / row),
    last: Math.ceil((scrollTop + clientHeight) / row),
  };
}

function Axis({ span }: { span: number }): JSX.Element {
  const found = useMemo(() => marks(span), [span]);
  return (
    <div class="axis" aria-hidden="true">
      <div class="track">
        {found.map((mark) => (
          <span key={mark.text} style={{ left: `${mark.at * 100}%` }}>
            {mark.text}
          </span>
        ))}
      </div>
    </div>
  );
}

function Row({ line, place, of }: { line: Line; place: number; of: number }): JSX.Element {
  const path = sessionPath(line.id);
  const waits = line.waiting === 1 ? "the run that waits" : `the ${line.waiting} runs that wait`;
  const kind = line.running ? "running" : line.asks.length ? "asks" : line.failed ? "failed" : line.waiting ? "waits" : "";
  return (
    <li class={`row ${kind}`} style={{ transform: `translateY(calc(var(--row) * ${place}))` }} aria-setsize={of} aria-posinset={place + 1}>
      <div class="name">
        {line.isOthers ? <span>{line.id}</span> : <a href={sessionLink(line.id)}>{line.id}</a>}
        <span class="state">{stateOf(line)}</span>
      </div>
      <div class="track" />
      <div class="does">
        {!line.isOthers && line.waiting > 0 && (
          <IconButton
            icon="cancel"
            label={`Cancel ${waits} in ${line.id}`}
            onClick={() => void act(() => call("POST", `${path}/cancel`, {}), `Cancelled ${waits}`)}
          />
        )}
        {!line.isOthers && (
          <IconButton
            icon={line.paused ? "play" : "pause"}
            label={line.paused ? `Resume ${line.id}` : `Pause ${line.id}`}
            onClick={() => void act(() => call("POST", `${path}/${line.paused ? "resume" : "pause"}`))}
          />
        )}
      </div>
    </li>
  );
}

function Tip({ run, x, y }: Hover): JSX.Element {
  const now = live.now();
  const ended = Number.isNaN(run.ended) ? now : run.ended;
  const started = Number.isNaN(run.started) ? ended : run.started;
  return (
    <div class="tip" style={{ left: `${x}px`, top: `${y}px` }}>
      <b class={run.status}>{STATUS[run.status]}</b>
      <span>waited {lasted(started - run.accepted)}</span>
      {!Number.isNaN(run.started) && <span>executed {lasted(ended - run.started)}</span>}
      <code>{run.id}</code>
    </div>
  );
}
