// What all projections of an event share: the scene, the tracks that pass, what is picked, and who is told of a pick.
import type { Filters, Scene, Track } from "./scene";
import { FILTERS } from "./scene";

export class Drawn {
  scene: Scene | null = null;
  filters: Filters = { ...FILTERS };
  visible: Track[] = [];
  hits: number[] = [];
  picked: number | null = null;
  hovered: number | null = null;
  private readonly listeners = new Set<(what: "all" | "mark") => void>();

  listen(listener: (what: "all" | "mark") => void): void {
    this.listeners.add(listener);
  }

  load(scene: Scene | null): void {
    this.scene = scene;
    this.picked = this.hovered = null;
    this.filters = { ...this.filters, vertex: null };
    this.refilter();
  }

  filter(change: Partial<Filters>): void {
    this.filters = { ...this.filters, ...change };
    this.refilter();
  }

  pick(track: number | null): void {
    if (this.picked === track) return;
    this.picked = track;
    this.tell("mark");
  }

  hover(track: number | null): void {
    if (this.hovered === track) return;
    this.hovered = track;
    this.tell("mark");
  }

  get pickedTrack(): Track | null {
    return this.picked === null ? null : (this.scene?.tracks[this.picked] ?? null);
  }

  get hoveredTrack(): Track | null {
    return this.hovered === null ? null : (this.scene?.tracks[this.hovered] ?? null);
  }

  /** Colours have changed. */
  repaint(): void {
    this.tell("all");
  }

  private refilter(): void {
    this.visible = this.scene?.visible(this.filters) ?? [];
    this.hits = this.scene?.hitsShown(this.filters, this.visible) ?? [];
    if (this.picked !== null && !this.visible.some((track) => track.index === this.picked)) this.picked = null;
    this.tell("all");
  }

  private tell(what: "all" | "mark"): void {
    for (const listener of [...this.listeners]) listener(what);
  }
}
