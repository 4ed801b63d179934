// What decides: paths with their rates, programmes by lumisection, a shadow beside, the text of the menu.
import { Refused } from "../api";
import { badge, card, h, keyed, say, show } from "../dom";
import type { Farm } from "../farm";
import { count, NOTHING, percent, rate, significant } from "../format";
import { Poll } from "../poll";
import { Table } from "../table";
import type { Path, Programme, Programmes, Shadow } from "../types";
import { modelName } from "./overview";
import { Fault, heading, type View } from "./view";

export class Menu implements View {
  readonly element: HTMLElement;
  private readonly fault = new Fault();
  private readonly paths: Table<Path>;
  private readonly programmes: Table<Programme>;
  private readonly pending = h("p", { class: "hint", hidden: true });
  private readonly shadow = h("div", { class: "shadow-body" });
  private readonly shadowCard: HTMLElement;
  private readonly text = h("pre", { class: "menu-text", tabindex: 0 });
  private readonly title = h("span", { class: "unit" });
  private shown: string | null = null;
  private readonly poll: Poll;

  constructor(private readonly farm: Farm) {
    this.paths = new Table<Path>({
      label: "Paths", key: (path) => path.name, empty: "No menu decides: no run is open.", sort: { key: "rate", descending: true }, rowClass: (path) => (path.active ? "" : "inactive"),
      columns: [
        { key: "name", title: "Path", value: (p) => p.name, make: () => h("div", {}, h("b"), h("small")), fill: (cell, p) => {
          say(cell.querySelector("b") as HTMLElement, p.name);
          say(cell.querySelector("small") as HTMLElement, p.active ? p.description : `${p.description} (not in the present menu)`.trim());
        } },
        { key: "stream", title: "Stream", value: (p) => p.stream, text: (p) => p.stream },
        { key: "prescale", title: "Prescale", hint: "one of so many is kept", value: (p) => p.prescale, text: (p) => (p.prescale === 1 ? "1" : `1 of ${count(p.prescale)}`), classes: "number" },
        { key: "rate", title: "Rate", hint: "accepted, over the last seconds", value: (p) => p.rate_hz, text: (p) => rate(p.rate_hz), classes: "number strong" },
        { key: "accepted", title: "Accepted", value: (p) => p.accepted, text: (p) => count(p.accepted), classes: "number" },
        { key: "prescaled", title: "Prescaled away", value: (p) => p.prescaled, text: (p) => count(p.prescaled), classes: "number" },
        { key: "fraction", title: "Fraction of events", hint: "with its 68 % interval", value: (p) => p.fraction, make: () => interval(), fill: intervalCell, classes: "wide" },
      ],
    });
    this.programmes = new Table<Programme>({
      label: "Programmes", key: (programme) => `${programme.first_lumi}`, empty: "No run is open.", sort: { key: "lumi", descending: true },
      columns: [
        { key: "lumi", title: "From lumisection", value: (p) => p.first_lumi, text: (p) => (p.first_lumi === 0 ? "the beginning" : count(p.first_lumi)) },
        { key: "now", title: "", make: () => badge("", "good"), fill: (cell, p) => { show(cell.firstElementChild as HTMLElement, p.current); say(cell.firstElementChild as HTMLElement, "now"); } },
        { key: "menu", title: "Menu", text: (p) => (p.menu_hash === "" ? NOTHING : p.menu_hash.slice(0, 8)), classes: "mono" },
        { key: "models", title: "Models", text: (p) => (p.models.length === 0 ? "none" : p.models.map(modelName).join("; ")) },
        { key: "accepted", title: "Accepted", value: (p) => p.accepted, text: (p) => count(p.accepted), classes: "number" },
        { key: "rejected", title: "Rejected", value: (p) => p.rejected, text: (p) => count(p.rejected), classes: "number" },
      ],
    });
    this.shadowCard = card("Shadow", "shadow-card", this.shadow);
    const text = card("Text of the menu", "", h("div", { class: "menu-scroll" }, this.text));
    text.querySelector("header")?.append(this.title);
    this.element = h("div", { class: "view" }, heading("Menu", "An event is accepted if one of its paths accepts it."), this.fault.element,
      card("Paths", "", this.paths.element), this.shadowCard, card("Programmes of the run", "", this.programmes.element, this.pending), text);
    this.poll = new Poll(() => this.look(), 1000, (error) => this.fault.tell(error));
  }

  open(): void {
    this.poll.start();
  }

  close(): void {
    this.poll.stop();
  }

  private async look(): Promise<void> {
    const { api } = this.farm;
    const [{ menu, paths }, programmes] = await Promise.all([api.get<{ menu: string | null; paths: Path[] }>("v1/paths"), api.get<Programmes>("v1/programmes")]);
    const shadow = programmes.shadow ? await orNothing(api.get<Shadow>("v1/shadow")) : null;
    this.paths.update(paths);
    this.programmes.update(programmes.programmes);
    const { pending } = programmes;
    show(this.pending, pending !== null);
    if (pending !== null) say(this.pending, pending.error ?? `Another menu or model is being prepared${pending.waits_for.length > 0 ? `; still building: ${pending.waits_for.join(", ")}` : ""}.`);
    this.tellShadow(shadow);
    if (menu !== this.shown) await this.tellText(menu);
  }

  private async tellText(hash: string | null): Promise<void> {
    const found = hash === null ? null : await orNothing(this.farm.api.get<{ name: string; hash: string; text: string }>("v1/menus/active"));
    say(this.text, found === null ? "No menu is active." : found.text === "" ? "# the built-in menu" : found.text);
    say(this.title, found === null ? "" : `${found.name}, ${found.hash.slice(0, 8)}`);
    this.shown = hash;
  }

  private tellShadow(shadow: Shadow | null): void {
    show(this.shadowCard, shadow !== null);
    if (shadow === null) return;
    const { matrix } = shadow;
    const rows: [string, string][] = [
      ["Menu", `${shadow.menu_hash.slice(0, 8) || NOTHING}, beside ${significant(100 * shadow.events_fraction)} % of the events`],
      ["Events seen", `${count(shadow.events)}${shadow.failed > 0 ? `, and ${count(shadow.failed)} that it could not process` : ""}`],
      ["Accepted now", share(shadow.active)],
      ["By the shadow", share(shadow.shadow)],
      ["Both", count(matrix.both)],
      ["Only what is active", count(matrix.active_only)],
      ["Only the shadow", count(matrix.shadow_only)],
      ["Neither", count(matrix.neither)],
    ];
    if (shadow.error !== null) rows.unshift(["Fault", shadow.error]);
    else if (shadow.waits_for.length > 0) rows.unshift(["Still building", shadow.waits_for.join(", ")]);
    keyed(this.shadow, rows, ([name]) => name, ([name]) => h("div", {}, h("span", {}, name), h("b")), (element, [, value]) => say(element.lastElementChild as HTMLElement, value));
  }
}

const share = (value: { fraction: number; low: number; high: number; rate_hz: number }): string => `${percent(value.fraction)} (${percent(value.low)} to ${percent(value.high)}), ${rate(value.rate_hz)}`;

async function orNothing<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refused && (error.status === 404 || error.status === 409)) return null;
    throw error;
  }
}

function interval(): HTMLElement {
  return h("div", { class: "interval" }, h("span", { class: "interval-bar" }, h("i", { class: "interval-fill" }), h("i", { class: "interval-range" })), h("span", { class: "interval-text" }));
}

function intervalCell(cell: HTMLElement, path: Path): void {
  const [fill, range] = Array.from(cell.querySelectorAll<HTMLElement>("i"));
  const { fraction, fraction_low: low, fraction_high: high } = path;
  if (fill !== undefined) fill.style.width = `${100 * (fraction ?? 0)}%`;
  if (range !== undefined) {
    range.style.left = `${100 * (low ?? 0)}%`;
    range.style.width = `${100 * ((high ?? 0) - (low ?? 0))}%`;
  }
  const text = path.events === 0 || fraction === null ? NOTHING : `${percent(fraction)} (${percent(low)} to ${percent(high)})`;
  say(cell.querySelector(".interval-text") as HTMLElement, text);
}
