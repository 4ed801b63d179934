// Lists of the past: the error stream, the run registry, the audit trail.
import { attribute, badge, card, h, keyed, say, show } from "../dom";
import type { Farm } from "../farm";
import { bytes, clock, count, duration, NOTHING, plain } from "../format";
import { Poll } from "../poll";
import { type ColumnOf, Table } from "../table";
import { outcomeTone } from "../tones";
import type { Audit, ErrorEvent, Run } from "../types";
import { modelName } from "./overview";
import { Fault, heading, type View } from "./view";

abstract class Records<R> implements View {
  readonly element: HTMLElement;
  protected readonly table: Table<R>;
  private readonly fault = new Fault();
  protected readonly poll: Poll;

  constructor(protected readonly farm: Farm, title: string, text: string, empty: string, everyMs: number) {
    this.table = new Table<R>({ label: title, key: (row) => this.key(row), empty, columns: this.columns() });
    this.element = h("div", { class: "view" }, heading(title, text), this.fault.element, h("section", { class: "card", "aria-label": title }, this.table.element));
    this.poll = new Poll(async () => this.table.update(await this.rows()), everyMs, (error) => this.fault.tell(error));
  }

  protected abstract columns(): ColumnOf<R>[];
  protected abstract key(row: R): string;
  protected abstract rows(): Promise<R[]>;

  open(_argument: string | null): void {
    this.poll.start();
  }

  close(): void {
    this.poll.stop();
  }
}

export class Errors extends Records<ErrorEvent> {
  constructor(farm: Farm) {
    super(farm, "Errors", "Events that nothing could decide. Each is kept in a bundle that hltfarm replay runs again.", "The error stream is empty.", 2000);
  }

  protected key = (row: ErrorEvent): string => `${row.ingest} ${row.run} ${row.event} ${row.time} ${row.bundle ?? ""}`;

  protected async rows(): Promise<ErrorEvent[]> {
    return (await this.farm.api.get<{ errors: ErrorEvent[] }>("v1/errors?limit=100")).errors;
  }

  protected columns(): ColumnOf<ErrorEvent>[] {
    return [
      { key: "time", title: "Time", value: (e) => e.time, text: (e) => clock(e.time, new Date()), classes: "nowrap" },
      { key: "event", title: "Run : LS : event", value: (e) => e.event, text: (e) => `${e.run} : ${e.lumi} : ${e.event}`, classes: "nowrap" },
      { key: "reason", title: "Reason", value: (e) => e.reason, make: (e) => badge(plain(e.reason), e.reason.startsWith("WORKER") ? "bad" : "warn") },
      { key: "stage", title: "Stage", value: (e) => e.stage, text: (e) => e.stage ?? NOTHING },
      { key: "worker", title: "Worker", value: (e) => e.worker, text: (e) => e.worker ?? NOTHING, classes: "nowrap" },
      { key: "attempts", title: "Tries", value: (e) => e.attempts, text: (e) => count(e.attempts), classes: "number" },
      { key: "error", title: "What it said", make: () => h("div", { class: "clamp" }, h("span"), h("small")), fill: (cell, e) => {
        say(cell.querySelector("span") as HTMLElement, e.error ?? NOTHING);
        say(cell.querySelector("small") as HTMLElement, e.bundle === null ? "" : `bundle ${e.bundle}`);
        (cell.firstElementChild as HTMLElement).title = e.error ?? "";
      } },
      { key: "size", title: "Size", value: (e) => e.size_bytes, text: (e) => bytes(e.size_bytes), classes: "number" },
      { key: "open", title: "", make: (e) => (e.id === null ? h("span", { class: "hint", title: "no copy of it is kept" }, "not kept") : h("a", { class: "button small", href: `#/events/${e.id}` }, "Display")) },
    ];
  }
}

export class Runs extends Records<Run> {
  private readonly detail = card("Run", "run-detail");
  private readonly facts = h("dl", { class: "facts" });
  private picked: Run | null = null;

  constructor(farm: Farm) {
    super(farm, "Runs", "Every run number with what decided, when, and its final books.", "No run yet.", 3000);
    this.detail.append(this.facts);
    this.detail.hidden = true;
    this.element.append(this.detail);
  }

  protected key = (row: Run): string => `${row.number}`;

  protected async rows(): Promise<Run[]> {
    const { runs: found } = await this.farm.api.get<{ runs: Run[] }>("v1/runs?limit=50");
    // the registry has books of runs that ended; those of the present one are in the status
    const { status } = this.farm;
    const runs = found.map((run) => (run.ledger === null && run.stopped === null && run.number === status?.run ? { ...run, ledger: status.ledger } : run));
    const number = this.picked?.number ?? this.wanted;
    this.tell(runs.find((run) => run.number === number) ?? null);
    return runs;
  }

  private wanted: number | null = null;

  override open(argument: string | null): void {
    this.wanted = argument === null ? null : Number(argument);
    super.open(argument);
  }

  private tell(run: Run | null): void {
    this.picked = run;
    show(this.detail, run !== null);
    if (run === null) return;
    say(this.detail.querySelector("h2") as HTMLElement, `Run ${run.number}`);
    const now = new Date();
    const facts: [string, string][] = [
      ["Outcome", run.outcome], ["Detector", run.detector], ["Menu", run.menu_hash || NOTHING], ["Models", run.models === null ? NOTHING : run.models.map(modelName).join("; ") || "none"],
      ["Created", clock(run.created, now)], ["Started", clock(run.started, now)], ["Stopped", clock(run.stopped, now)],
      ["Sent again", count(run.ledger?.duplicates)], ["Missing in the books", count(run.ledger?.mismatch)],
    ];
    keyed(this.facts, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (element, [, value]) => say(element.lastElementChild as HTMLElement, value));
  }

  protected columns(): ColumnOf<Run>[] {
    const ledger = (name: "received" | "accepted" | "rejected" | "error", title: string): ColumnOf<Run> => ({ key: name, title, value: (r) => r.ledger?.[name], text: (r) => count(r.ledger?.[name]), classes: "number" });
    return [
      { key: "number", title: "Run", value: (r) => r.number, make: (r) => h("a", { href: `#/runs/${r.number}`, onclick: () => this.tell(r) }, `${r.number}`), classes: "strong" },
      { key: "outcome", title: "Outcome", value: (r) => r.outcome, make: () => badge("", "idle"), fill: (cell, r) => {
        const element = cell.firstElementChild as HTMLElement;
        say(element, r.outcome);
        element.className = `badge tone-${outcomeTone(r.outcome)}`;
      } },
      { key: "started", title: "Started", value: (r) => r.started, text: (r) => clock(r.started, new Date()), classes: "nowrap" },
      { key: "lasted", title: "Lasted", value: (r) => lasted(r), text: (r) => (r.started === null ? NOTHING : duration(lasted(r))), classes: "number" },
      { key: "menu", title: "Menu", value: (r) => r.menu_hash, text: (r) => r.menu_hash.slice(0, 8) || NOTHING, classes: "mono" },
      ledger("received", "Received"), ledger("accepted", "Accepted"), ledger("rejected", "Rejected"), ledger("error", "Error"),
      { key: "closed", title: "Books", make: () => badge("", "idle"), fill: (cell, r) => {
        const element = cell.firstElementChild as HTMLElement;
        const closed = r.ledger !== null && r.ledger.mismatch === 0;
        say(element, r.ledger === null ? "open" : closed ? "✓ closed" : "✗ not closed");
        attribute(element, "title", r.stopped === null && r.ledger !== null ? "at this moment: the run lasts" : null);
        element.className = `badge tone-${r.ledger === null ? "info" : closed ? "good" : "bad"}`;
      } },
    ];
  }
}

const lasted = (run: Run): number => (run.started === null ? 0 : ((run.stopped === null ? Date.now() : Date.parse(run.stopped)) - Date.parse(run.started)) / 1000);

export class Audits extends Records<Audit> {
  constructor(farm: Farm) {
    super(farm, "Audit", "Commands that changed something, or were to: when, who, from where, with what outcome.", "No command was given yet.", 3000);
  }

  protected key = (row: Audit): string => `${row.id}`;

  protected async rows(): Promise<Audit[]> {
    return (await this.farm.api.get<{ entries: Audit[] }>("v1/audit?limit=100")).entries;
  }

  protected columns(): ColumnOf<Audit>[] {
    return [
      { key: "time", title: "Time", value: (a) => a.time, text: (a) => clock(a.time, new Date()), classes: "nowrap" },
      { key: "who", title: "Who", value: (a) => a.who, text: (a) => a.who, classes: "strong" },
      { key: "address", title: "From", value: (a) => a.address, text: (a) => a.address, classes: "nowrap" },
      { key: "command", title: "Command", value: (a) => a.command, text: (a) => a.command, classes: "mono" },
      { key: "arguments", title: "With", make: () => h("div", { class: "clamp" }), fill: (cell, a) => say(cell.firstElementChild as HTMLElement, given(a.arguments)) },
      { key: "outcome", title: "Outcome", value: (a) => a.outcome, make: (a) => badge(a.outcome, outcomeTone(a.outcome)) },
      { key: "detail", title: "Why not", make: () => h("div", { class: "clamp" }), fill: (cell, a) => say(cell.firstElementChild as HTMLElement, a.detail ?? "") },
    ];
  }
}

function given(values: Record<string, unknown>): string {
  return Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => `${name} = ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
}
