// The last minutes of the farm, as the control plane keeps them, held in the page with a bound. Pure.
import type { HistoryAnswer, Samples } from "./types";

const COLUMNS = [
  "received_hz", "accepted_hz", "rejected_hz", "error_hz", "in_flight", "mb_per_s", "latency_p50_ms", "latency_p99_ms", "workers_ready", "workers",
] as const;
export type Column = (typeof COLUMNS)[number];

export class History {
  time: number[] = [];
  private columns: Record<Column, Samples> = empty();
  paths: Record<string, Samples> = {};

  constructor(private readonly limit = 900) {}

  /** Time of the newest sample, for `since`. */
  get newest(): number | null {
    return this.time.at(-1) ?? null;
  }

  get length(): number {
    return this.time.length;
  }

  column(name: Column): Samples {
    return this.columns[name];
  }

  /** The newest value that is known. */
  last(name: Column): number | null {
    return this.columns[name].at(-1) ?? null;
  }

  /** Takes an answer in. Samples that are known are skipped; a clock that was set back begins anew. */
  append(answer: HistoryAnswer): void {
    const newest = this.newest;
    const back = answer.time.at(-1);
    if (newest !== null && back !== undefined && back < newest - 5) this.clear();
    const known = this.newest;
    let first = 0;
    if (known !== null) while (first < answer.time.length && (answer.time[first] ?? 0) <= known) first += 1;
    const added = answer.time.length - first;
    if (added === 0) return;
    const before = this.time.length;
    this.time.push(...answer.time.slice(first));
    for (const name of COLUMNS) this.columns[name].push(...padded(answer[name], first, added));
    for (const name of new Set([...Object.keys(this.paths), ...Object.keys(answer.paths)])) {
      const column = (this.paths[name] ??= new Array<null>(before).fill(null));
      column.push(...padded(answer.paths[name], first, added));
    }
    this.trim();
  }

  clear(): void {
    this.time = [];
    this.columns = empty();
    this.paths = {};
  }

  private trim(): void {
    const excess = this.time.length - this.limit;
    if (excess <= 0) return;
    this.time.splice(0, excess);
    for (const name of COLUMNS) this.columns[name].splice(0, excess);
    for (const [name, column] of Object.entries(this.paths)) {
      column.splice(0, excess);
      if (column.every((value) => value === null)) delete this.paths[name];
    }
  }
}

function empty(): Record<Column, Samples> {
  return Object.fromEntries(COLUMNS.map((name) => [name, [] as Samples])) as Record<Column, Samples>;
}

function padded(column: Samples | undefined, first: number, wanted: number): Samples {
  const tail = (column ?? []).slice(first, first + wanted);
  while (tail.length < wanted) tail.push(null);
  return tail;
}
