// Asks again and again, while somebody looks at it.
import { answered, type Contact, delay, failed, UNKNOWN } from "./backoff";

export class Poll {
  contact: Contact = UNKNOWN;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private running = false;
  private turn = 0;

  /** `work` throws if there is no answer; `told` hears of each turn. */
  constructor(
    private readonly work: () => Promise<void>,
    private readonly everyMs: number,
    private readonly told: (error: unknown) => void = () => undefined,
  ) {}

  start(): void {
    if (this.running) return;
    this.running = true;
    document.addEventListener("visibilitychange", this.wake);
    void this.look(++this.turn);
  }

  stop(): void {
    this.running = false;
    this.turn += 1;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.wake);
  }

  /** Look now, and then as before. */
  now(): void {
    if (!this.running) return;
    clearTimeout(this.timer);
    void this.look(++this.turn);
  }

  private readonly wake = (): void => {
    if (!document.hidden) this.now();
  };

  private async look(turn: number): Promise<void> {
    let fault: unknown = null;
    try {
      await this.work();
      this.contact = answered(Date.now());
    } catch (error) {
      fault = error;
      this.contact = failed(this.contact);
    }
    if (turn !== this.turn) return;
    this.told(fault);
    const pause = delay(this.contact, this.everyMs) * (document.hidden ? 10 : 1);
    this.timer = setTimeout(() => void this.look(turn), pause);
  }
}
