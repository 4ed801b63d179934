// What the page knows of the farm, and how it learns it. Views listen and draw.
import { type Api, NoAnswer, Refused } from "./api";
import { away, type Contact, UNKNOWN } from "./backoff";
import { History } from "./history";
import { Poll } from "./poll";
import type { Access, HistoryAnswer, Programmes, Run, Status } from "./types";

export class Farm {
  status: Status | null = null;
  access: Access | null = null;
  run: Run | null = null;
  programmes: Programmes | null = null;
  readonly history = new History();
  contact: Contact = UNKNOWN;
  /** Why the farm gives no numbers, in words; null while it does. */
  fault: string | null = null;
  private readonly listeners = new Set<() => void>();
  private readonly live: Poll;
  private readonly slow: Poll;

  constructor(readonly api: Api) {
    this.live = new Poll(() => this.look(), 1000, (error) => this.heard(error));
    this.slow = new Poll(() => this.lookSlowly(), 3000, () => this.tell());
  }

  start(): void {
    this.live.start();
    this.slow.start();
  }

  /** Ask now: after a command. */
  now(): void {
    this.live.now();
  }

  /** Another token counts: forget who one was. */
  again(): void {
    this.access = null;
    this.live.now();
    this.slow.now();
  }

  listen(listener: () => void): void {
    this.listeners.add(listener);
  }

  forget(listener: () => void): void {
    this.listeners.delete(listener);
  }

  get away(): boolean {
    return away(this.contact);
  }

  /** Whether the caller may steer. Unknown counts as yes: the farm decides. */
  get mayOperate(): boolean {
    return this.access === null || this.access.role !== "viewer";
  }

  private async look(): Promise<void> {
    const newest = this.history.newest;
    const [status, history] = await Promise.all([
      this.api.get<Status>("v1/status"),
      this.api.get<HistoryAnswer>(newest === null ? "v1/history" : `v1/history?since=${newest}`),
    ]);
    this.status = status;
    this.history.append(history);
  }

  private heard(error: unknown): void {
    this.contact = this.live.contact;
    this.fault = error === null ? null : error instanceof Refused && error.status === 401 ? "the farm asks for a token" : error instanceof Error ? error.message : String(error);
    this.tell();
  }

  private async lookSlowly(): Promise<void> {
    // anew each time: tokens are read again without a restart, and their role or what is wrong with their file may be another then
    this.access = await this.api.get<Access>("v1/access");
    this.programmes = await this.api.get<Programmes>("v1/programmes");
    const number = this.status?.run ?? null;
    if (number === null) this.run = null;
    else if (stale(this.run, number, this.status?.state ?? "")) this.run = await this.runOf(number);
  }

  private async runOf(number: number): Promise<Run | null> {
    try {
      return await this.api.get<Run>(`v1/runs/${number}`);
    } catch (error) {
      if (error instanceof NoAnswer) throw error;
      return null; // a registry that is away must not hide the rest
    }
  }

  private tell(): void {
    for (const listener of [...this.listeners]) listener();
  }
}

const OPEN = ["Running", "RunningDegraded", "Paused", "Draining"];

/** Whether what is known of a run may have changed: another one, one that has not begun, or one that has ended since. */
export function stale(run: Run | null, number: number, state: string): boolean {
  return run?.number !== number || run.started === null || (run.stopped === null && !OPEN.includes(state));
}
