// The farm at a glance: state and commands, books, live plots, paths, problems.
import { type Command, command, COMMANDS, doing } from "../commands";
import { attribute, badge, button, card, h, keyed, say, show, toggle } from "../dom";
import type { Farm } from "../farm";
import { count, duration, milliseconds, prefixed, rate, significant, stateWords } from "../format";
import { LivePlot } from "../plots";
import { tone } from "../tones";
import type { Ingest, Ledger, LoadedModel, Status, Transition } from "../types";
import type { View } from "./view";

const TERMS = ["accepted", "rejected", "error", "in_flight"] as const;
const TERM_WORDS: Record<(typeof TERMS)[number], string> = { accepted: "accepted", rejected: "rejected", error: "error", in_flight: "in flight" };
const PATHS_SHOWN = 8;
const whole = (model: LoadedModel | null): string | null => (model === null ? null : `${model.kind}, computed as ${model.engine}, ${model.hash}`);
const TITLES: Record<string, (status: Status) => string | null> = { Menu: (status) => status.menu_hash, Selector: (status) => whole(status.selector), "Event model": (status) => whole(status.event_model) };

export class Overview implements View {
  readonly element: HTMLElement;
  private readonly stateDot = h("i", { class: "dot" });
  private readonly stateWord = h("strong", { class: "state-word" });
  private readonly stateNote = h("span", { class: "state-note" });
  private readonly facts = h("dl", { class: "facts" });
  private readonly buttons = new Map<string, HTMLButtonElement>();
  private readonly progress = h("ul", { class: "progress", "aria-live": "polite" });
  private readonly mark = h("span", { class: "badge" });
  private readonly numbers = new Map<string, HTMLElement>();
  private readonly bar = h("div", { class: "bar", role: "img" });
  private readonly booksNote = h("p", { class: "hint" });
  private readonly problems = h("ul", { class: "problems" });
  private readonly calm = h("p", { class: "calm" }, "Nothing to report.");
  private readonly ingests = h("div", { class: "ingests" });
  private readonly paths = h("div", { class: "path-rates" });
  private readonly noPaths = h("p", { class: "empty" }, "No path has accepted an event in the last seconds.");
  private readonly plots: LivePlot[];
  private busy = false;

  constructor(private readonly farm: Farm) {
    this.plots = [
      new LivePlot({
        title: "Rates", unit: "events/s", format: rate, atLeast: 10,
        lines: [{ column: "received_hz", label: "received", colour: "series-1", fill: true }, { column: "accepted_hz", label: "accepted", colour: "series-2" }, { column: "error_hz", label: "error", colour: "series-bad" }],
      }),
      new LivePlot({
        title: "Latency", unit: "ms, receipt to decision", format: milliseconds, atLeast: 5,
        lines: [{ column: "latency_p50_ms", label: "median", colour: "series-3" }, { column: "latency_p99_ms", label: "99 %", colour: "series-4" }],
      }),
      new LivePlot({ title: "In flight", unit: "events", format: (value) => count(value), atLeast: 8, lines: [{ column: "in_flight", label: "now", colour: "series-5", fill: true }] }),
      new LivePlot({ title: "Input", unit: "MB/s", format: (value) => (value === null ? "–" : prefixed(value * 1e6, "B/s")), atLeast: 1, lines: [{ column: "mb_per_s", label: "now", colour: "series-6", fill: true }] }),
    ];
    this.element = h("div", { class: "view overview" },
      this.stateCard(), this.booksCard(),
      h("div", { class: "plots" }, ...this.plots.map((plot) => plot.element)),
      card("Paths, accepted per second", "paths-card", this.paths, this.noPaths),
      card("Problems", "problems-card", this.problems, this.calm),
      card("Ingests", "ingests-card", this.ingests),
    );
  }

  open(): void {
    this.farm.listen(this.update);
    this.update();
  }

  close(): void {
    this.farm.forget(this.update);
  }

  private stateCard(): HTMLElement {
    const row = h("div", { class: "buttons", role: "group", "aria-label": "Run control" });
    for (const what of COMMANDS) {
      const element = button(what.label, what.style, () => void this.give(what));
      this.buttons.set(what.name, element);
      row.append(element);
    }
    const state = h("div", { class: "state" }, this.stateDot, h("div", {}, this.stateWord, this.stateNote));
    return h("section", { class: "card state-card", "aria-label": "Run" }, h("div", { class: "state-row" }, state, row), this.facts, this.progress);
  }

  private booksCard(): HTMLElement {
    const sum = h("div", { class: "books" });
    const term = (name: string, label: string): HTMLElement => {
      const number = h("b", {}, "–");
      this.numbers.set(name, number);
      return h("div", { class: `term term-${name}` }, number, h("span", {}, label));
    };
    sum.append(term("received", "received"));
    TERMS.forEach((name, index) => sum.append(h("i", { class: "operator", "aria-hidden": "true" }, index === 0 ? "=" : "+"), term(name, TERM_WORDS[name])));
    for (const name of TERMS) this.bar.append(h("span", { class: `part part-${name}` }));
    const section = card("Books", "books-card", sum, this.bar, this.booksNote);
    section.querySelector("header")?.append(this.mark);
    return section;
  }

  private readonly update = (): void => {
    const { status, history } = this.farm;
    for (const plot of this.plots) plot.update(history);
    this.pathRates();
    toggle(this.element, "stale", this.farm.away);
    if (status === null) return;
    const state = this.farm.away ? "Unknown" : status.state;
    say(this.stateWord, this.farm.away ? "No answer" : stateWords(state));
    this.stateDot.className = `dot tone-${tone(state)}`;
    say(this.stateNote, status.ready ? "ready for events" : "not ready for events");
    this.tellFacts();
    this.tellButtons(status.legal);
    this.books(status.ledger);
    keyed(this.progress, status.pending, (item) => item.id, () => h("li"), (element, item: Transition) => say(element, `${doing(item)} … ${item.seconds.toFixed(0)} s`));
    const problems = this.farm.access?.problem ? [...status.problems, this.farm.access.problem] : status.problems;
    keyed(this.problems, problems, (text) => text, () => h("li"), say);
    show(this.calm, problems.length === 0);
    keyed(this.ingests, status.ingests, (ingest) => ingest.endpoint, () => h("div", { class: "ingest" }, h("i", { class: "dot small" }), h("b"), h("span")), ingestRow);
  };

  private tellFacts(): void {
    const { status, run, programmes } = this.farm;
    if (status === null) return;
    const started = run?.started ?? null;
    const lasted = started === null || run?.stopped ? null : (Date.now() - Date.parse(started)) / 1000;
    const facts: [string, string][] = [
      ["Run", status.run === null ? "none yet" : `${status.run}`],
      ["Lumisection", programmes === null || programmes.lumisection === 0 ? "–" : `${programmes.lumisection}`],
      ["Running for", lasted === null ? "–" : duration(lasted)],
      ["Sources", count(status.clients)],
      ["Workers", `${status.workers_ready} of ${status.workers} ready`],
      ["Menu", status.menu_hash === null || status.menu_hash === "" ? "–" : status.menu_hash.slice(0, 8)],
      ["Selector", modelName(status.selector)],
      ["Event model", modelName(status.event_model)],
    ];
    keyed(this.facts, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (element, [name, value]) => {
      const cell = element.lastElementChild as HTMLElement;
      say(cell, value);
      attribute(cell, "title", TITLES[name]?.(status) ?? null);
    });
  }

  private tellButtons(legal: readonly string[]): void {
    for (const what of COMMANDS) {
      const element = this.buttons.get(what.name) as HTMLButtonElement;
      const possible = legal.includes(what.name);
      // what is never needed from here is not shown; what would be tells why it cannot be pressed
      show(element, possible);
      element.disabled = this.busy || !this.farm.mayOperate || this.farm.away;
      attribute(element, "title", this.farm.mayOperate ? null : `the role ${this.farm.access?.role ?? ""} may only look`);
    }
  }

  private async give(what: Command): Promise<void> {
    this.busy = true;
    this.update();
    try {
      await command(this.farm, what);
    } finally {
      this.busy = false;
      this.update();
    }
  }

  private books(ledger: Ledger | null): void {
    const closed = ledger !== null && ledger.mismatch === 0;
    say(this.mark, ledger === null ? "no run" : closed ? "✓ closed" : `✗ ${count(ledger.mismatch)} missing`);
    this.mark.className = `badge tone-${ledger === null ? "idle" : closed ? "good" : "bad"}`;
    for (const name of ["received", ...TERMS] as const) say(this.numbers.get(name) as HTMLElement, count(ledger?.[name]));
    TERMS.forEach((name, index) => {
      const part = this.bar.children[index] as HTMLElement;
      const share = ledger === null || ledger.received === 0 ? 0 : ledger[name] / ledger.received;
      part.style.flexGrow = `${share}`;
      toggle(part, "some", share > 0);
    });
    const share = ledger === null || ledger.accepted + ledger.rejected === 0 ? null : ledger.accepted / (ledger.accepted + ledger.rejected);
    const again = ledger !== null && ledger.duplicates > 0 ? ` ${count(ledger.duplicates)} were sent again and recognised.` : "";
    say(this.booksNote, share === null ? "Counted since the run began." : `${significant(100 * share)} % of the decided events are accepted.${again}`);
    attribute(this.bar, "aria-label", TERMS.map((name) => `${TERM_WORDS[name]} ${ledger?.[name] ?? 0}`).join(", "));
  }

  private pathRates(): void {
    const rows = Object.entries(this.farm.history.paths)
      .map(([name, column]) => {
        const known = column.slice(-5).filter((value): value is number => value !== null);
        return { name, hz: known.reduce((sum, value) => sum + value, 0) / Math.max(1, known.length) };
      })
      .filter((row) => row.hz > 0)
      .sort((a, b) => b.hz - a.hz)
      .slice(0, PATHS_SHOWN);
    const most = Math.max(1e-9, ...rows.map((row) => row.hz));
    keyed(this.paths, rows, (row) => row.name, (row) => h("a", { class: "path-rate", href: "#/menu" }, h("span", { class: "path-name", title: row.name }, row.name), h("span", { class: "path-bar" }, h("i")), h("b")), (element, row) => {
      (element.children[1]?.firstElementChild as HTMLElement).style.width = `${(100 * row.hz) / most}%`;
      say(element.children[2] as HTMLElement, rate(row.hz));
    });
    show(this.noPaths, rows.length === 0);
  }
}

function ingestRow(element: HTMLElement, ingest: Ingest): void {
  const [dot, name, text] = Array.from(element.children) as [HTMLElement, HTMLElement, HTMLElement];
  dot.className = `dot small tone-${ingest.up ? tone(ingest.state ?? "") : "bad"}`;
  say(name, ingest.clients_url ?? ingest.endpoint);
  const sources = ingest.clients === 1 ? "1 source" : `${count(ingest.clients)} sources`;
  say(text, ingest.up ? `${stateWords(ingest.state ?? "")}, ${sources}, ${count(ingest.ledger?.received ?? 0)} events` : (ingest.error ?? "does not answer"));
}

export function modelName(model: LoadedModel | null): string {
  if (model === null) return "none";
  const point = model.working_point === null ? "" : ` at ${model.working_point}`;
  return `${model.name} ${model.version}${point}`;
}

export const stateBadge = (state: string): HTMLElement => badge(stateWords(state), tone(state));
