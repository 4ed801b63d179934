// Workers: what each does, holds and is able to, and commands on them.
import { carryOut } from "../commands";
import { ask } from "../dialog";
import { attribute, badge, button, h, say, show } from "../dom";
import type { Farm } from "../farm";
import { ago, bytes, count, percent } from "../format";
import { canaries, type Canary } from "../exposition";
import { notice } from "../notices";
import { Poll } from "../poll";
import { Table } from "../table";
import type { Tone } from "../tones";
import type { Worker } from "../types";
import { Fault, heading, type View } from "./view";

interface Action {
  name: string;
  label: string;
  text?: (name: string) => string;
  danger?: boolean;
}

const ACTIONS: Action[] = [
  { name: "drain", label: "Drain", text: (name) => `${name} finishes what it has and leaves. It is not started again before it is released.` },
  { name: "restart", label: "Restart", text: (name) => `${name} finishes what it has and is started anew; the others take its events meanwhile.` },
  { name: "quarantine", label: "Quarantine", text: (name) => `${name} finishes what it has and gets no more events until it is released.`, danger: true },
  { name: "release", label: "Release" },
];

export class Workers implements View {
  readonly element: HTMLElement;
  private readonly table: Table<Worker>;
  private readonly fault = new Fault();
  private readonly poll: Poll;
  private canaries = new Map<string, Canary>();

  constructor(private readonly farm: Farm) {
    this.table = new Table<Worker>({
      label: "Workers", key: (worker) => worker.name, empty: "No worker has joined. Start one with hltfarm worker, or the farm with hltfarm serve.", sort: { key: "name", descending: false },
      columns: [
        { key: "name", title: "Worker", value: (w) => w.name, text: (w) => w.name, classes: "strong" },
        { key: "state", title: "State", value: (w) => describe(w)[0], make: () => badge("", "idle"), fill: stateCell },
        { key: "device", title: "Device", value: (w) => w.device ?? w.backend, text: (w) => w.device ?? w.backend ?? "–" },
        { key: "in_flight", title: "Busy", hint: "events that are with it", value: (w) => w.in_flight, text: (w) => count(w.in_flight), classes: "number" },
        { key: "credit", title: "Credit", hint: "events that it can still take", value: (w) => w.credit_events, text: (w) => count(w.credit_events), classes: "number" },
        { key: "processed", title: "Processed", value: (w) => w.processed, text: (w) => count(w.processed), classes: "number" },
        { key: "memory", title: "Memory", hint: "of the process, with the pages of slot rings that it has touched", value: (w) => w.resident_bytes, text: (w) => bytes(w.resident_bytes), classes: "number" },
        { key: "gpu", title: "GPU", hint: "utilization and memory", value: (w) => w.gpu?.utilization ?? null, text: (w) => (w.gpu === null ? "–" : `${percent(w.gpu.utilization)}, ${bytes(w.gpu.memory_used_bytes)} of ${bytes(w.gpu.memory_total_bytes)}`), classes: "number" },
        { key: "canary", title: "Canary", hint: "last event of known result that it reconstructed right", value: (w) => this.canaries.get(w.name)?.at ?? null, fill: (cell, w) => this.canaryCell(cell, w) },
        { key: "restarts", title: "Restarts", value: (w) => w.restarts, text: (w) => count(w.restarts), classes: "number" },
        { key: "actions", title: "", make: (w) => this.actions(w.name), fill: (cell, w) => this.tellActions(cell, w), classes: "actions" },
      ],
    });
    this.element = h("div", { class: "view" }, heading("Workers", "Each takes events while it has credit; what it cannot finish goes to another."), this.fault.element, h("section", { class: "card", "aria-label": "Workers" }, this.table.element));
    this.poll = new Poll(() => this.look(), 2000, (error) => this.fault.tell(error));
  }

  open(): void {
    this.poll.start();
  }

  close(): void {
    this.poll.stop();
  }

  private async look(): Promise<void> {
    const [{ workers }, metrics] = await Promise.all([this.farm.api.get<{ workers: Worker[] }>("v1/workers"), this.farm.api.blob("metrics")]);
    this.canaries = canaries(await metrics.text());
    this.table.update(workers);
  }

  private canaryCell(cell: HTMLElement, worker: Worker): void {
    const canary = this.canaries.get(worker.name);
    const text = canary === undefined || canary.at === 0 ? "–" : ago(Date.now() / 1000 - canary.at);
    say(cell, canary?.distrusted === true ? "wrong digest" : canary !== undefined && canary.failures > 0 ? `${text}, ${count(canary.failures)} failed` : text);
    cell.className = canary?.distrusted === true ? "tone-text-bad" : "";
  }

  private actions(name: string): HTMLElement {
    return h("div", { class: "row-buttons" }, ...ACTIONS.map((action) => button(action.label, "small", () => void this.give(action, name))));
  }

  private tellActions(cell: HTMLElement, worker: Worker): void {
    const [state] = describe(worker);
    const out = worker.quarantined !== null || state === "drained" || state === "waits for restart" || state === "stopped";
    Array.from(cell.firstElementChild?.children ?? []).forEach((element, index) => {
      const action = ACTIONS[index] as Action;
      show(element as HTMLElement, action.name === "release" ? out : !out && (action.name !== "restart" || worker.process !== null));
      (element as HTMLButtonElement).disabled = !this.farm.mayOperate || state === "leaving";
      attribute(element, "aria-label", `${action.label} ${worker.name}`);
    });
  }

  private async give(action: Action, name: string): Promise<void> {
    let body: unknown;
    if (action.text !== undefined) {
      const reason = h("input", { class: "input", "aria-label": "Reason", placeholder: "by an operator", maxlength: 500 });
      const fields = action.name === "quarantine" ? [h("label", { class: "field" }, h("span", {}, "Reason"), reason)] : [];
      if (!(await ask({ title: `${action.label} ${name}?`, text: action.text(name), act: action.label, danger: action.danger ?? false, fields }))) return;
      if (reason.value.trim() !== "") body = { reason: reason.value.trim() };
    }
    const done = carryOut(this.farm, `v1/workers/${encodeURIComponent(name)}/${action.name}`, `${action.label} ${name}`, body);
    this.poll.now();
    if ((await done) && action.name === "release") notice(`${name} is released`, "good");
    this.poll.now();
  }
}

/** State in a word, its colour, and more to read. */
export function describe(worker: Worker): [string, Tone, string] {
  const phase = worker.process?.phase ?? null;
  if (worker.leaving || phase === "leaving") return ["leaving", "busy", worker.quarantined ?? "it finishes what it has"];
  if (worker.quarantined !== null) return ["quarantined", "bad", worker.quarantined];
  if (worker.up && worker.ready) return ["ready", "good", "it takes events"];
  if (worker.up) return ["configuring", "info", "it builds the reconstruction"];
  if (phase === "drained") return ["drained", "idle", "it is not started again before it is released"];
  if (phase === "waiting") return ["waits for restart", "warn", worker.process?.last_exit ?? ""];
  if (phase === "running") return ["starting", "info", ""];
  if (phase !== null && phase !== "") return [phase, "idle", worker.process?.last_exit ?? ""];
  return worker.joined ? ["lost", "bad", "its events went to others"] : ["ended", "idle", ""];
}

function stateCell(cell: HTMLElement, worker: Worker): void {
  const [word, tone, more] = describe(worker);
  const element = cell.firstElementChild as HTMLElement;
  say(element, word);
  element.className = `badge tone-${tone}`;
  attribute(element, "title", more === "" ? null : more);
}
