// Live plots over the last minutes, of columns of the history.
import uPlot from "uplot";
import { h, say } from "./dom";
import type { Column, History } from "./history";
import { colour, onTheme } from "./theme";

export interface Line {
  column: Column;
  label: string;
  colour: string;
  fill?: boolean;
}

export interface PlotOptions {
  title: string;
  unit: string;
  lines: Line[];
  format: (value: number | null) => string;
  /** Least height of the y axis, in its unit: a quiet farm is a flat line. */
  atLeast: number;
}

const WINDOW_S = 300;
const LEAST_S = 60;
const FONT = '11px "Inter Variable", sans-serif';

export class LivePlot {
  readonly element: HTMLElement;
  private readonly canvas = h("div", { class: "plot-area" });
  private readonly values = new Map<Column, HTMLElement>();
  private plot: uPlot | null = null;
  private history: History | null = null;
  private readonly observer = new ResizeObserver(() => this.resize());
  private readonly off: () => void;

  constructor(private readonly options: PlotOptions) {
    const legend = h("div", { class: "plot-legend" });
    for (const line of options.lines) {
      const value = h("b", {}, "–");
      this.values.set(line.column, value);
      legend.append(h("span", { class: "plot-key" }, h("i", { class: `swatch swatch-${line.colour}` }), line.label, value));
    }
    const head = h("header", { class: "card-head" }, h("h2", {}, options.title), h("span", { class: "unit" }, options.unit), legend);
    this.element = h("section", { class: "card plot", "aria-label": options.title }, head, this.canvas);
    this.observer.observe(this.canvas);
    this.off = onTheme(() => this.rebuild());
  }

  update(history: History): void {
    this.history = history;
    for (const line of this.options.lines) say(this.values.get(line.column) as HTMLElement, this.options.format(history.last(line.column)));
    if (this.plot === null) this.rebuild();
    else this.plot.setData(this.data(history));
  }

  close(): void {
    this.observer.disconnect();
    this.off();
    this.plot?.destroy();
    this.plot = null;
  }

  private data(history: History): uPlot.AlignedData {
    return [history.time, ...this.options.lines.map((line) => history.column(line.column))] as uPlot.AlignedData;
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width < 40 || height < 40) return;
    if (this.plot === null) this.rebuild();
    else this.plot.setSize({ width, height });
  }

  private rebuild(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.history === null || width < 40 || height < 40) return;
    this.plot?.destroy();
    const axis = { stroke: colour("muted"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { stroke: colour("grid"), width: 1, size: 4 } };
    this.plot = new uPlot(
      {
        width, height,
        padding: [8, 12, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: "live" }, points: { size: 6 }, drag: { x: false, y: false }, y: false },
        scales: { x: { time: true, range: (_plot, min, max) => window(min, max) }, y: { range: (_plot, _min, max) => [0, Math.max(this.options.atLeast, (max ?? 0) * 1.12)] } },
        axes: [
          { ...axis, space: 70, size: 24, gap: 3, values: (plot, splits) => splits.map((value) => (cut(plot, value) ? "" : timeOfDay(value))) },
          { ...axis, space: 28, size: 46, gap: 4, values: (_plot, splits) => splits.map((value) => tick(value)) },
        ],
        series: [{}, ...this.options.lines.map((line) => ({
          stroke: colour(line.colour), width: 1.75, points: { show: false }, spanGaps: false, ...(line.fill === true ? { fill: `${colour(line.colour)}22` } : {}),
        }))],
        hooks: { setCursor: [(plot) => this.hover(plot)] },
      },
      this.data(this.history),
      this.canvas,
    );
  }

  /** Under the cursor, the legend tells the values there. */
  private hover(plot: uPlot): void {
    const at = plot.cursor.idx;
    this.options.lines.forEach((line, index) => {
      const value = at === null || at === undefined ? this.history?.last(line.column) : plot.data[index + 1]?.[at];
      say(this.values.get(line.column) as HTMLElement, this.options.format(value ?? null));
    });
  }
}

/** The last five minutes; less while the farm is younger than that. */
function window(oldest: number | null, newest: number | null): [number, number] {
  const end = newest ?? Date.now() / 1000;
  return [end - Math.min(WINDOW_S, Math.max(LEAST_S, end - (oldest ?? end))), end];
}

/** Whether the label of a time would be cut off at the edge. */
function cut(plot: uPlot, value: number): boolean {
  return plot.valToPos(value, "x") > plot.bbox.width / devicePixelRatio - 14;
}

function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export function tick(value: number): string {
  if (value >= 1e6) return `${value / 1e6}M`;
  if (value >= 1e4) return `${value / 1e3}k`;
  return `${Number(value.toPrecision(6))}`;
}
