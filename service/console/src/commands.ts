// Commands of run control and of workers: what they are called, what is asked before, how far they are.
import { type Api, Refused, words } from "./api";
import { ask } from "./dialog";
import { h } from "./dom";
import type { Farm } from "./farm";
import { notice } from "./notices";
import type { Transition } from "./types";

export interface Command {
  name: string;
  label: string;
  style: "primary" | "" | "danger";
  question?: { text: string; act: string };
}

/** In the order in which they are offered. */
export const COMMANDS: Command[] = [
  { name: "start", label: "Start", style: "primary" },
  { name: "resume", label: "Resume", style: "primary" },
  { name: "configure", label: "Configure", style: "" },
  { name: "pause", label: "Pause", style: "" },
  { name: "drain", label: "Drain", style: "" },
  { name: "stop", label: "Stop", style: "danger", question: { text: "Sources get no more credit, events in flight are decided, and the run ends. The next start begins a new run.", act: "Stop the run" } },
  { name: "reset", label: "Reset", style: "danger", question: { text: "Everything in flight goes to the error stream, the run ends as reset, and the farm is halted. It does not start by itself again.", act: "Reset the farm" } },
];

const DOING: Record<string, string> = { configure: "Configuring", drain: "Draining", stop: "Stopping", activate: "Exchanging menu or models", rollback: "Rolling back" };

export function doing(transition: Transition): string {
  const what = transition.worker === null ? (DOING[transition.command] ?? transition.command) : `${transition.command.replace("worker_", "").replaceAll("_", " ")} of ${transition.worker}`;
  return transition.lumisection === null ? what : `${what} from lumisection ${transition.lumisection}`;
}

export async function command(farm: Farm, what: Command): Promise<void> {
  let body: unknown;
  if (what.name === "configure") {
    const choice = await configuration(farm.api);
    if (choice === null) return;
    body = choice;
  } else if (what.question !== undefined) {
    const run = farm.status?.run;
    const title = what.name === "stop" && run !== null && run !== undefined ? `Stop run ${run}?` : `${what.label}?`;
    if (!(await ask({ title, text: what.question.text, act: what.question.act, danger: what.style === "danger" }))) return;
  }
  await carryOut(farm, `v1/control/${what.name}`, what.label, body);
}

/** Send a command; follow what takes time; tell what became of it. */
export async function carryOut(farm: Farm, path: string, label: string, body?: unknown): Promise<boolean> {
  try {
    const answer = await farm.api.post<Partial<Transition>>(path, body);
    farm.now();
    if (answer.progress !== undefined && answer.id !== undefined) await follow(farm, answer.id, label);
    return true;
  } catch (error) {
    const legal = error instanceof Refused && error.legal !== null ? ` Possible now: ${error.legal.join(", ")}.` : "";
    notice(`${label}: ${words(error)}.${legal}`.replace("..", "."), "bad");
    farm.now();
    return false;
  }
}

async function follow(farm: Farm, id: string, label: string): Promise<void> {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const now = await farm.api.get<Transition>(`v1/transitions/${id}`);
    if (now.progress === "pending") continue;
    if (now.progress === "failed") notice(`${label} failed: ${now.error ?? "no reason is known"}`, "bad");
    else notice(`${label}: done in ${now.seconds.toFixed(1)} s`, "good");
    farm.now();
    return;
  }
}

/** Fields of the next run; null if it is not to be. */
async function configuration(api: Api): Promise<Record<string, string> | null> {
  const menu = h("select", { class: "input", "aria-label": "Menu" }, h("option", { value: "" }, "as before"), h("option", { value: "default" }, "built-in"));
  try {
    const { menus } = await api.get<{ menus: { name: string; hash: string }[] }>("v1/menus");
    for (const entry of menus) menu.append(h("option", { value: entry.hash }, `${entry.name} (${entry.hash.slice(0, 8)})`));
  } catch (error) {
    notice(`The menus of the store: ${words(error)}`, "bad");
  }
  const field = h("label", { class: "field" }, h("span", {}, "Menu"), menu);
  const text = "The workers build the reconstruction; detector and models stay as they are.";
  if (!(await ask({ title: "Configure the next run", text, act: "Configure", fields: [field] }))) return null;
  return menu.value === "" ? {} : { menu_ref: menu.value };
}
