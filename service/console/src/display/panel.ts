// Beside the projections: filters, the tracks, the vertices, what is picked.
import { badge, button, h, keyed, say, show } from "../dom";
import { count, NOTHING, significant } from "../format";
import { Table } from "../table";
import type { Drawn } from "./drawn";
import { type ColourBy, type HitsShown, QUALITY, type Track, type Vertex } from "./scene";

/** Positions of the slider of pt, GeV. */
const STEPS = [0, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20];
const angle = (value: number): string => value.toFixed(3).replace("-", "−");
const signed = (value: number, digits: number): string => value.toFixed(digits).replace("-", "−");

export class Panel {
  readonly element: HTMLElement;
  private readonly tracks: Table<Track>;
  private readonly vertices: Table<Vertex>;
  private readonly summary = h("p", { class: "hint" });
  private readonly detail = h("section", { class: "track-detail", "aria-label": "Picked track", hidden: true });
  private readonly detailTitle = h("h3");
  private readonly facts = h("dl", { class: "facts" });
  private readonly hits = h("tbody");
  private readonly ptText = h("output");
  private told: Track | null = null;
  private readonly tabs: [HTMLButtonElement, HTMLElement][];

  constructor(private readonly drawn: Drawn) {
    this.tracks = new Table<Track>({
      label: "Tracks", key: (track) => `${track.index}`, empty: "No track passes the filters.", sort: { key: "pt", descending: true },
      pick: (track) => drawn.pick(track.index), hover: (track) => drawn.hover(track?.index ?? null),
      columns: [
        { key: "colour", title: "", make: () => h("i", { class: "swatch" }), fill: (cell, t) => { (cell.firstElementChild as HTMLElement).style.background = drawn.scene?.colourOfTrack(t, drawn.filters.colourBy, tone()) ?? ""; } },
        { key: "pt", title: "pT", hint: "GeV", value: (t) => t.pt, text: (t) => significant(t.pt), classes: "number" },
        { key: "eta", title: "η", value: (t) => t.eta, text: (t) => signed(t.eta, 2), classes: "number" },
        { key: "phi", title: "φ", hint: "rad", value: (t) => t.phi, text: (t) => signed(t.phi, 2), classes: "number" },
        { key: "zip", title: "z", hint: "where it meets the beam line, cm", value: (t) => t.zip, text: (t) => signed(t.zip, 2), classes: "number" },
        { key: "hits", title: "Hits", value: (t) => t.nHits, text: (t) => `${t.nHits}`, classes: "number" },
        { key: "score", title: "Score", hint: "of the selector", value: (t) => t.score, text: (t) => (t.score === 0 ? NOTHING : t.score.toFixed(3)), classes: "number" },
        { key: "vertex", title: "Vtx", hint: "vertex", value: (t) => (t.vertex < 0 ? null : t.vertex), text: (t) => (t.vertex < 0 ? NOTHING : `${t.vertex}`), classes: "number" },
      ],
    });
    this.vertices = new Table<Vertex>({
      label: "Vertices", key: (vertex) => `${vertex.index}`, empty: "No vertex was found.",
      pick: (vertex) => drawn.filter({ vertex: drawn.filters.vertex === vertex.index ? null : vertex.index }),
      columns: [
        { key: "colour", title: "", make: () => h("i", { class: "swatch" }), fill: (cell, v) => { (cell.firstElementChild as HTMLElement).style.background = drawn.scene?.colourOfTrack({ vertex: v.index } as Track, "vertex", tone()) ?? ""; } },
        { key: "index", title: "Vtx", value: (v) => v.index, text: (v) => `${v.index}`, classes: "number" },
        { key: "z", title: "z [cm]", value: (v) => v.z, text: (v) => signed(v.z, 3), classes: "number" },
        { key: "tracks", title: "Tracks", value: (v) => v.tracks, text: (v) => count(v.tracks), classes: "number" },
        { key: "sum", title: "Σ pT² [GeV²]", value: (v) => v.sumPt2, text: (v) => significant(v.sumPt2), classes: "number" },
        { key: "chi2", title: "χ² / ndof", value: (v) => v.chi2 / Math.max(1, v.ndof), text: (v) => (v.ndof <= 0 ? NOTHING : (v.chi2 / v.ndof).toFixed(2)), classes: "number" },
      ],
    });
    const lists = h("div", { class: "panel-lists" }, this.tracks.element, this.vertices.element);
    this.tabs = [[this.tab("Tracks", 0), this.tracks.element], [this.tab("Vertices", 1), this.vertices.element]];
    this.element = h("aside", { class: "panel", "aria-label": "Tracks and vertices" }, this.filters(),
      h("div", { class: "tabs", role: "tablist" }, ...this.tabs.map(([tab]) => tab)), lists, this.buildDetail());
    this.open(0);
    drawn.listen((what) => this.update(what));
  }

  private tab(title: string, index: number): HTMLButtonElement {
    return h("button", { type: "button", role: "tab", onclick: () => this.open(index) }, title);
  }

  private open(index: number): void {
    this.tabs.forEach(([tab, list], i) => {
      tab.setAttribute("aria-selected", `${i === index}`);
      show(list, i === index);
    });
  }

  private filters(): HTMLElement {
    const { drawn } = this;
    const slider = h("input", { type: "range", min: 0, max: STEPS.length - 1, step: 1, value: 0, "aria-label": "Least pT", oninput: () => drawn.filter({ ptMin: STEPS[Number(slider.value)] ?? 0 }) });
    const hits = h("select", { class: "input", "aria-label": "Least number of hits", onchange: () => drawn.filter({ nHitsMin: Number(hits.value) }) }, ...[3, 4, 5].map((n) => h("option", { value: n }, `≥ ${n}`)));
    const box = (label: string, name: "high" | "loose" | "rest", title: string): HTMLElement => {
      const input = h("input", { type: "checkbox", checked: drawn.filters[name], onchange: () => drawn.filter({ [name]: input.checked }) });
      return h("label", { class: "check", title }, input, label);
    };
    const colours = h("select", { class: "input", "aria-label": "Colour by", onchange: () => drawn.filter({ colourBy: colours.value as ColourBy }) },
      h("option", { value: "vertex" }, "vertex"), h("option", { value: "pt" }, "pT"), h("option", { value: "quality" }, "quality"));
    const shown = h("select", { class: "input", "aria-label": "Hits shown", onchange: () => drawn.filter({ hits: shown.value as HitsShown }) },
      h("option", { value: "all" }, "all"), h("option", { value: "tracks" }, "of tracks"), h("option", { value: "none" }, "none"));
    return h("div", { class: "filters" },
      h("label", { class: "field slider" }, h("span", {}, "pT"), slider, this.ptText),
      h("div", { class: "filter-row" },
        h("label", { class: "field" }, h("span", {}, "Hits a track"), hits),
        h("label", { class: "field" }, h("span", {}, "Colour by"), colours),
        h("label", { class: "field" }, h("span", {}, "Hits shown"), shown)),
      h("div", { class: "filter-row" }, box("high purity", "high", "quality 3: the selector took them"), box("loose", "loose", "quality 2"), box("duplicate, bad", "rest", "quality 1 and 0; the event is loaded again with them")),
      this.summary);
  }

  private buildDetail(): HTMLElement {
    const table = h("table", { class: "hits-table", "aria-label": "Hits of the track" }, h("thead", {}, h("tr", {}, ...["Layer", "r [cm]", "z [cm]", "Charge [ke]"].map((title, i) => h("th", { class: i === 0 ? "" : "number", scope: "col" }, title)))), this.hits);
    this.detail.append(h("header", {}, this.detailTitle, button("×", "quiet", () => this.drawn.pick(null), "Let go (Esc)")), this.facts, table);
    return this.detail;
  }

  private update(what: "all" | "mark"): void {
    const { drawn } = this;
    if (what === "all") {
      this.tracks.whenEmpty(drawn.scene === null ? "No event is shown." : drawn.scene.tracks.length === 0 ? "The event has no track." : "No track passes the filters.");
      this.tracks.update(drawn.visible);
      this.vertices.update(drawn.scene?.vertices ?? []);
      this.vertices.select(drawn.filters.vertex === null ? null : `${drawn.filters.vertex}`);
      say(this.ptText, drawn.filters.ptMin === 0 ? "all" : `≥ ${drawn.filters.ptMin} GeV`);
      const total = drawn.scene?.tracks.length ?? 0;
      const of = drawn.filters.vertex === null ? "" : ` of vertex ${drawn.filters.vertex}`;
      say(this.summary, drawn.scene === null ? "" : `${count(drawn.visible.length)} of ${count(total)} tracks${of}, ${count(drawn.hits.length)} hits`);
      const [tracks, vertices] = this.tabs;
      say((tracks as [HTMLElement, HTMLElement])[0], `Tracks ${count(drawn.visible.length)}`);
      say((vertices as [HTMLElement, HTMLElement])[0], `Vertices ${count(drawn.scene?.vertices.length ?? 0)}`);
    }
    const track = drawn.pickedTrack;
    if (what === "mark" && track === this.told) return; // only the pointer moved
    this.told = track;
    this.tracks.select(drawn.picked === null ? null : `${drawn.picked}`, true);
    this.tell(track);
  }

  private tell(track: Track | null): void {
    show(this.detail, track !== null);
    const { scene } = this.drawn;
    if (track === null || scene === null) return;
    say(this.detailTitle, `Track ${track.index}`);
    const facts: [string, string][] = [
      ["pT", `${significant(track.pt)} GeV`], ["η", angle(track.eta)], ["φ", `${angle(track.phi)} rad`], ["Charge", track.charge > 0 ? "+1" : "−1"],
      ["d₀ (tip)", `${signed(track.tip * 1e4, 0)} µm`], ["z₀ (zip)", `${signed(track.zip, 3)} cm`], ["χ² / ndof", track.chi2.toFixed(2)], ["Score", track.score === 0 ? NOTHING : track.score.toFixed(4)],
      ["Quality", QUALITY[track.quality] ?? `${track.quality}`], ["Vertex", track.vertex < 0 ? "none" : `${track.vertex}`],
    ];
    keyed(this.facts, facts, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (element, [, value]) => say(element.lastElementChild as HTMLElement, value));
    const { x, y, z, layer, charge } = scene.event.hits;
    this.hits.replaceChildren(...track.hits.map((hit) => h("tr", {},
      h("td", {}, scene.layers.get(layer[hit] ?? -1)?.name ?? `${layer[hit]}`), h("td", { class: "number" }, Math.hypot(x[hit] ?? 0, y[hit] ?? 0).toFixed(2)),
      h("td", { class: "number" }, signed(z[hit] ?? 0, 2)), h("td", { class: "number" }, ((charge[hit] ?? 0) / 1000).toFixed(1)))));
  }
}

const tone = (): "dark" | "light" => (document.documentElement.dataset["theme"] === "light" ? "light" : "dark");

/** "The CPU gives the same bits", or not, or nobody knows. */
export function digestBadge(equal: boolean | null): HTMLElement {
  if (equal === null) return badge("bits not compared", "idle");
  return equal ? badge("✓ the CPU gives the same bits", "good") : badge("✗ the CPU gives other bits", "bad");
}
