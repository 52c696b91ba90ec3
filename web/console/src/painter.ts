/** Draws the runs of the lines in view on one canvas, and says which run is at a point of it. */
import type { Line, Run } from "./lines";

export const THIN_ROWS = 5;
const BAR = { top: 8, height: 14 };
const THIN = { top: 27, height: 3, step: 5 };
const AHEAD = 0.03; // of the width, behind "now"

interface Colors {
  run: string;
  done: string;
  bad: string;
  ask: string;
  gone: string;
  wait: string;
  past: string;
  grid: string;
}

export interface Place {
  width: number; // of the canvas, in CSS pixels
  height: number;
  left: number; // where the track of a row begins
  track: number; // and how wide it is
  top: number; // within its row
  row: number; // the height of a row
  scrolled: number;
  first: number; // the rows in view
  last: number;
}

export class Painter {
  private readonly context: CanvasRenderingContext2D;
  private colors: Colors;
  private ratio = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d")!;
    this.colors = this.read();
  }

  /** Reads the colours of the theme anew. */
  themed(): void {
    this.colors = this.read();
  }

  private read(): Colors {
    const style = getComputedStyle(this.canvas);
    const of = (name: string): string => style.getPropertyValue(name).trim();
    return {
      run: of("--run"),
      done: of("--done"),
      bad: of("--bad"),
      ask: of("--ask"),
      gone: of("--gone"),
      wait: of("--wait"),
      past: of("--past"),
      grid: of("--grid"),
    };
  }

  paint(lines: Line[], place: Place, now: number, span: number): void {
    const { context, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(place.width * ratio) || canvas.height !== Math.round(place.height * ratio) || ratio !== this.ratio) {
      this.ratio = ratio;
      canvas.width = Math.round(place.width * ratio);
      canvas.height = Math.round(place.height * ratio);
      canvas.style.width = `${place.width}px`;
      canvas.style.height = `${place.height}px`;
      canvas.style.marginBottom = `${-place.height}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, place.width, place.height);
    context.save();
    context.beginPath();
    context.rect(place.left, 0, place.track, place.height);
    context.clip();
    this.grid(place, now, span);
    for (let index = place.first; index < place.last; index += 1) {
      const line = lines[index];
      if (line !== undefined) this.line(line, place, index * place.row - place.scrolled + place.top, now, span);
    }
    context.restore();
  }

  private grid(place: Place, now: number, span: number): void {
    const { context } = this;
    const step = stepOf(span);
    context.fillStyle = this.colors.grid;
    for (let ago = step; ago < span; ago += step) {
      context.fillRect(Math.round(xOf(now - ago, place, now, span)), 0, 1, place.height);
    }
    context.fillStyle = this.colors.past;
    context.fillRect(Math.round(xOf(now, place, now, span)), 0, 1, place.height);
  }

  private line(line: Line, place: Place, top: number, now: number, span: number): void {
    if (line.isOthers) {
      const [from, to] = [xOf(now - span / 12, place, now, span), xOf(now, place, now, span)];
      if (line.running) this.bar(from, to, top + BAR.top, BAR.height, this.colors.run);
      for (let row = 0; row < Math.min(line.waiting, THIN_ROWS); row += 1) {
        this.bar(from, to, top + THIN.top + row * THIN.step, THIN.height, this.colors.wait);
      }
      return;
    }
    for (const run of line.runs) {
      const ended = Number.isNaN(run.ended) ? now : run.ended;
      if (ended < now - span * 1.05) continue;
      const started = Number.isNaN(run.started) ? ended : run.started;
      if (run.row < THIN_ROWS && started - run.accepted > 20) {
        const color = run.status === "queued" ? this.colors.wait : this.colors.past;
        this.bar(xOf(run.accepted, place, now, span), xOf(started, place, now, span), top + THIN.top + run.row * THIN.step, THIN.height, color);
      }
      if (!Number.isNaN(run.started)) {
        this.bar(xOf(run.started, place, now, span), xOf(ended, place, now, span), top + BAR.top, BAR.height, this.colorOf(run));
      }
    }
  }

  private colorOf(run: Run): string {
    switch (run.status) {
      case "failed":
        return this.colors.bad;
      case "needs_input":
        return this.colors.ask;
      case "cancelled":
        return this.colors.gone;
      case "succeeded":
        return this.colors.done;
      default:
        return this.colors.run;
    }
  }

  private bar(from: number, to: number, top: number, height: number, color: string): void {
    const width = Math.max(to - from - 1, 2);
    this.context.fillStyle = color;
    this.context.beginPath();
    this.context.roundRect(from, top, width, height, Math.min(3, width / 2, height / 2));
    this.context.fill();
  }
}

/** The run at a point of the canvas, null if there is none. */
export function runAt(lines: Line[], place: Place, x: number, y: number, now: number, span: number): Run | null {
  const index = Math.floor((y + place.scrolled) / place.row);
  const line = lines[index];
  if (line === undefined || line.isOthers || x < place.left || x > place.left + place.track) return null;
  const within = y + place.scrolled - index * place.row - place.top;
  const at = now - span + ((x - place.left) / (place.track * (1 - AHEAD))) * span;
  const reach = (3 / place.track) * span;
  const inBar = within < THIN.top - 2;
  const row = Math.floor((within - THIN.top + 1) / THIN.step);
  const found = line.runs.findLast((run) => {
    const ended = Number.isNaN(run.ended) ? now : run.ended;
    const started = Number.isNaN(run.started) ? ended : run.started;
    const [from, to] = inBar ? [started, Number.isNaN(run.started) ? started : ended] : [run.accepted, started];
    return (inBar || run.row === row) && at >= from - reach && at <= to + reach && to > from;
  });
  return found ?? null;
}

function xOf(at: number, place: Place, now: number, span: number): number {
  return place.left + ((at - (now - span)) / span) * place.track * (1 - AHEAD);
}

export const stepOf = (span: number): number => (span <= 60_000 ? 10_000 : span <= 180_000 ? 30_000 : 120_000);

/** Where the marks of the axis are, from 0 (left) to 1, and what they say. */
export function marks(span: number): { at: number; text: string }[] {
  const step = stepOf(span);
  const found = [];
  for (let ago = 0; ago < span; ago += step) {
    const text = ago === 0 ? "now" : ago % 60_000 === 0 ? `−${ago / 60_000} min` : `−${ago / 1000} s`;
    found.push({ at: (1 - ago / span) * (1 - AHEAD), text });
  }
  return found;
}
