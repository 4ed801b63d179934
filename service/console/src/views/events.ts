// The latest events, and the display of one of them.
import { Refused, words } from "../api";
import { badge, button, h, keyed, say, show, toggle } from "../dom";
import { Drawn } from "../display/drawn";
import { digestBadge, Panel } from "../display/panel";
import { Scene } from "../display/scene";
import { Stage } from "../display/stage";
import type { Farm } from "../farm";
import { bytes, clock, count, NOTHING, plain, significant } from "../format";
import { notice } from "../notices";
import { Poll } from "../poll";
import type { EventDetail, EventEntry, Geometry } from "../types";
import { Fault, type View } from "./view";

type Kind = "" | "accepted" | "error";
const FOLLOW_MS = 5_000;
const COUNTS: [string, string][] = [["hits", "hits"], ["tracks", "tracks"], ["tracks_high_purity", "high purity"], ["vertices", "vertices"], ["modules", "modules"], ["clusters", "clusters"], ["doublets", "doublets"]];

export class Events implements View {
  readonly element: HTMLElement;
  private readonly drawn = new Drawn();
  private readonly stage = new Stage(this.drawn);
  private readonly panel = new Panel(this.drawn);
  private readonly fault = new Fault();
  private readonly list = h("ol", { class: "event-list" });
  private readonly none = h("p", { class: "empty" }, "No event yet. They come as soon as the farm accepts one.");
  private readonly kinds = h("div", { class: "segments", role: "group", "aria-label": "Kind of events" });
  private readonly title = h("h1", { class: "event-title" });
  private readonly facts = h("div", { class: "event-facts" });
  private readonly message = h("div", { class: "stage-message" });
  private readonly raw = button("Raw data", "small", () => void this.download(), "Download the event as a sample that hltfarm reco reads");
  private readonly follow = h("input", { type: "checkbox" });
  private everything = false;
  private kind: Kind = "";
  private events: EventEntry[] = [];
  private current: string | null = null;
  private shown: EventDetail | null = null;
  private failed = false;
  private turn = 0;
  private followedAt = 0;
  private geometry: Geometry | null = null;
  private readonly poll: Poll;

  constructor(private readonly farm: Farm) {
    for (const [kind, label] of [["", "All"], ["accepted", "Accepted"], ["error", "Errors"]] as const) {
      this.kinds.append(h("button", { type: "button", "data-kind": kind, "aria-pressed": kind === "" ? "true" : "false", onclick: () => this.choose(kind) }, label));
    }
    const rail = h("nav", { class: "rail card", "aria-label": "Recent events" }, h("header", {}, this.kinds, h("label", { class: "check", title: "Open the newest event every five seconds" }, this.follow, "Follow")), this.fault.element, this.list, this.none);
    const head = h("header", { class: "event-head" }, h("div", { class: "event-what" }, this.title, h("div", { class: "event-tools" }, this.stage.switch, button("Fit", "small", () => this.stage.reset(), "Whole detector in view (0)"), this.raw)), this.facts);
    this.element = h("div", { class: "view events" }, rail, h("section", { class: "display card", "aria-label": "Event display" }, head, h("div", { class: "stage-frame" }, this.stage.element, this.message)), this.panel.element);
    this.panel.element.classList.add("card");
    this.drawn.listen(() => {
      if (this.drawn.filters.rest === this.everything) return;
      this.everything = this.drawn.filters.rest;
      if (this.current !== null && this.everything) void this.load(this.current);
    });
    this.poll = new Poll(() => this.look(), 2000, (error) => this.fault.tell(error));
    this.raw.hidden = true;
    this.tell("Pick an event on the left.");
  }

  open(argument: string | null): void {
    this.poll.start();
    void this.stage.ready();
    // one that could not be had is asked for again: perhaps there is a token now, or the farm is back
    if (argument !== null && (argument !== this.current || this.failed)) void this.load(argument);
    else if (argument === null && this.current !== null) location.replace(`#/events/${this.current}`);
    this.mark();
  }

  close(): void {
    this.poll.stop();
  }

  /** Keys of this view; whether it was one. */
  key(key: string): boolean {
    if (key === "j" || key === "k") this.step(key === "j" ? 1 : -1);
    else return this.stage.key(key);
    return true;
  }

  private step(by: number): void {
    const at = this.events.findIndex((event) => event.id === this.current);
    const next = this.events[at < 0 ? 0 : Math.max(0, Math.min(this.events.length - 1, at + by))];
    if (next !== undefined) location.hash = `#/events/${next.id}`;
  }

  private choose(kind: Kind): void {
    this.kind = kind;
    for (const element of Array.from(this.kinds.children)) element.setAttribute("aria-pressed", `${(element as HTMLElement).dataset["kind"] === kind}`);
    this.poll.now();
  }

  private async look(): Promise<void> {
    const { events } = await this.farm.api.get<{ events: EventEntry[] }>(`v1/events?limit=50${this.kind === "" ? "" : `&kind=${this.kind}`}`);
    this.events = events;
    // what somebody is about to click must not move away under the pointer
    if (!this.list.matches(":hover")) keyed(this.list, events, (event) => event.id, entry, (element, event) => say(element.querySelector("time") as HTMLElement, clock(event.decided_at, new Date())));
    show(this.none, events.length === 0);
    this.mark();
    const newest = events[0];
    const due = this.current === null || (this.follow.checked && Date.now() - this.followedAt > FOLLOW_MS);
    // an answer that comes late must not take somebody back from another view
    if (newest !== undefined && newest.id !== this.current && due && this.element.isConnected) {
      this.followedAt = Date.now();
      location.replace(`#/events/${newest.id}`);
    }
  }

  private mark(): void {
    for (const element of Array.from(this.list.children) as HTMLElement[]) {
      const on = element.dataset["key"] === this.current;
      toggle(element, "selected", on);
      element.firstElementChild?.setAttribute("aria-current", on ? "true" : "false");
    }
  }

  private async load(id: string): Promise<void> {
    const turn = ++this.turn;
    this.current = id;
    this.failed = false;
    this.mark();
    this.tell("Reconstructing the event again, on the CPU …");
    toggle(this.element, "loading", true);
    try {
      const quality = this.everything ? "?quality=all" : "";
      const [detail, geometry] = await Promise.all([this.farm.api.get<EventDetail>(`v1/events/${encodeURIComponent(id)}${quality}`, 60_000), this.geometryOf()]);
      if (turn !== this.turn) return;
      this.shown = detail;
      this.drawn.load(new Scene(detail, geometry));
      this.describe(detail, geometry);
    } catch (error) {
      if (turn !== this.turn) return;
      this.shown = null;
      this.failed = true;
      this.raw.hidden = true;
      this.drawn.load(null);
      say(this.title, "");
      this.facts.replaceChildren();
      this.tell(error instanceof Refused && error.status === 404 ? "The farm has no copy of this event any more; it keeps the latest ones." : `The event cannot be shown: ${words(error)}`);
    } finally {
      if (turn === this.turn) toggle(this.element, "loading", false);
    }
  }

  /** It changes with the run alone. */
  private async geometryOf(): Promise<Geometry> {
    const run = this.farm.status?.run ?? null;
    if (this.geometry === null || this.geometryRun !== run) {
      this.geometry = await this.farm.api.get<Geometry>("v1/geometry", 30_000);
      this.geometryRun = run;
    }
    return this.geometry;
  }

  private geometryRun: number | null = null;

  private describe(detail: EventDetail, geometry: Geometry): void {
    const { meta, counts } = detail;
    say(this.title, `Run ${meta.run} · LS ${meta.lumi} · event ${meta.event}`);
    const chips: HTMLElement[] = [meta.kind === "error" ? badge(`error: ${plain(meta.reason ?? "")}`, "bad") : badge("accepted", "good")];
    for (const path of meta.paths) chips.push(badge(path, "info"));
    for (const flag of detail.flags) chips.push(badge(plain(flag), "warn"));
    if (meta.kind === "accepted") chips.push(digestBadge(meta.digest_equal));
    const numbers = COUNTS.filter(([name]) => counts[name] !== undefined).map(([name, label]) => `${count(counts[name])} ${label}`);
    const more = [
      ...(meta.digest === null ? [] : [`digest ${meta.digest}`]), `BX ${meta.bx}`, bytes(meta.size_bytes), ...(meta.worker === null ? [] : [meta.worker]),
      ...(meta.reconstructed_in_ms === null ? [] : [`here in ${significant(meta.reconstructed_in_ms)} ms`]), ...(meta.models.length === 0 ? [] : [meta.models.join(", ")]),
    ];
    this.facts.replaceChildren(h("div", { class: "chips" }, ...chips), h("p", { class: "hint" }, counts["hits"] ? numbers.join(" · ") : "no hits"), h("p", { class: "hint mono-digest", title: more.join(" · ") }, more.join(" · ")));
    this.raw.hidden = !this.farm.mayOperate;
    const { occupancy } = detail;
    if (meta.error !== undefined && meta.error !== null) this.tellFailure(meta.error, occupancy ?? null, geometry);
    else this.tell("");
  }

  private tell(text: string): void {
    this.message.replaceChildren(h("p", {}, text));
    show(this.message, text !== "");
  }

  /** An event that cannot be reconstructed: why, and where it has data. */
  private tellFailure(text: string, occupancy: EventDetail["occupancy"], geometry: Geometry): void {
    this.tell("It cannot be reconstructed.");
    this.message.append(h("p", {}, text));
    if (occupancy === null || occupancy === undefined || occupancy.layer.length === 0) {
      this.message.append(h("p", { class: "hint" }, "Nothing of its payload can be read."));
      return;
    }
    const most = Math.max(1, ...occupancy.pixels);
    const rows = occupancy.layer.map((layer, i) => {
      const bar = h("i");
      bar.style.width = `${(100 * (occupancy.pixels[i] ?? 0)) / most}%`;
      const found = geometry.layers.find((other) => other.id === layer);
      return h("tr", {}, h("td", {}, found?.name ?? `${layer}`), h("td", { class: "number" }, `${count(occupancy.fired[i])}${found === undefined ? "" : ` of ${count(found.modules)}`}`), h("td", { class: "number" }, count(occupancy.pixels[i])), h("td", { class: "occupancy" }, bar));
    });
    this.message.append(h("table", { "aria-label": "What its payload holds" }, h("thead", {}, h("tr", {}, ...["Layer", "Modules with data", "Pixel words", ""].map((title) => h("th", { scope: "col" }, title)))), h("tbody", {}, ...rows)));
  }

  private async download(): Promise<void> {
    if (this.shown === null) return;
    const { id, run, event } = this.shown.meta;
    try {
      const url = URL.createObjectURL(await this.farm.api.blob(`v1/events/${encodeURIComponent(id)}/raw`));
      h("a", { href: url, download: `run${run}_event${event}.hlt` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) {
      notice(`Raw data: ${words(error)}`, "bad");
    }
  }
}

function entry(event: EventEntry): HTMLElement {
  const what = event.kind === "error" ? plain(event.reason ?? "error") : event.paths.length === 0 ? NOTHING : event.paths.join(", ");
  return h("li", { class: `event-entry ${event.kind}` }, h("a", { href: `#/events/${event.id}`, title: what },
    h("span", { class: "event-number" }, h("i", { class: `dot small tone-${event.kind === "error" ? "bad" : "good"}` }), `LS ${event.lumi}`), h("time"), h("small", {}, what), h("small", { class: "event-id" }, `${event.run} : ${event.event}`)));
}
