// A projection onto a plane, on a canvas: drag to move, wheel to zoom, click to pick a track.
import { h } from "../dom";
import { colour, theme } from "../theme";
import type { Drawn } from "./drawn";
import type { Scene, Track } from "./scene";
import { type Box, distance2, fit, pan, toPixelX, toPixelY, type Viewport, zoom } from "./viewport";

const REACH_PX = 8;

export abstract class Plane {
  readonly element: HTMLElement;
  readonly canvas = h("canvas", { class: "plane" });
  protected view: Viewport | null = null;
  protected home: Viewport | null = null;
  private readonly tip = h("div", { class: "plane-tip", hidden: true });
  private scene: Scene | null = null;
  private frame = 0;
  private drag: { x: number; y: number; moved: boolean } | null = null;

  constructor(
    protected readonly drawn: Drawn,
    readonly title: string,
    label: string,
  ) {
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", label);
    this.element = h("figure", { class: "projection" }, this.canvas, this.tip, h("figcaption", {}, title));
    new ResizeObserver(() => this.resize()).observe(this.element);
    drawn.listen(() => this.redraw());
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.down(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.up(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("dblclick", () => this.reset());
  }

  /** Coordinates in the plane of a point in space. */
  protected abstract across(x: number, y: number, z: number): number;
  protected abstract up_(x: number, y: number, z: number): number;
  protected abstract box(scene: Scene): Box;
  protected abstract readonly square: boolean;
  protected abstract readonly margin: readonly [number, number, number, number];
  protected abstract ground(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void;
  protected abstract axes(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void;

  /** All of the detector in view. */
  reset(): void {
    this.view = this.home;
    this.redraw();
  }

  redraw(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  private resize(): void {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width < 10 || height < 10) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.home = this.view = null;
    this.draw();
  }

  private draw(): void {
    const { scene } = this.drawn;
    const { clientWidth: width, clientHeight: height } = this.element;
    const context = this.canvas.getContext("2d");
    if (context === null || width < 10) return;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (scene !== this.scene) this.home = this.view = null;
    this.scene = scene;
    if (scene === null) return;
    this.home ??= fit(this.box(scene), width, height, this.margin, this.square);
    const view = (this.view ??= this.home);
    context.lineJoin = "round";
    context.save();
    this.clip(context, view, 0);
    this.ground(context, view, scene);
    this.paintTracks(context, view, scene);
    this.paintHits(context, view, scene);
    context.restore();
    this.axes(context, view, scene);
    context.save();
    this.clip(context, view, 6);
    this.paintVertices(context, view, scene);
    this.paintPicked(context, view, scene);
    context.restore();
  }

  /** To the frame of a projection that has axes, and `more` pixels. */
  private clip(context: CanvasRenderingContext2D, view: Viewport, more: number): void {
    if (this.square) return;
    const [left, right, top, bottom] = this.margin;
    context.beginPath();
    context.rect(left - more, top - more, view.width - left - right + 2 * more, view.height - top - bottom + 2 * more);
    context.clip();
  }

  private paintHits(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    const tone = theme();
    const { x, y, z, layer } = scene.event.hits;
    const size = Math.min(3.2, 1.5 + 0.35 * Math.log2(Math.max(1, view.sx / (this.home?.sx ?? view.sx))));
    const colours = new Map(scene.geometry.layers.map(({ id }) => [id, scene.colourOfLayer(id, tone)]));
    const dim = this.drawn.picked !== null;
    let last = -1;
    for (const hit of this.drawn.hits) {
      const [hx, hy, hz] = [x[hit] ?? 0, y[hit] ?? 0, z[hit] ?? 0];
      const px = toPixelX(view, this.across(hx, hy, hz));
      const py = toPixelY(view, this.up_(hx, hy, hz));
      if (px < -4 || py < -4 || px > view.width + 4 || py > view.height + 4) continue;
      const on = layer[hit] ?? -1;
      if (on !== last) {
        context.fillStyle = colours.get(on) ?? colour("muted");
        last = on;
      }
      context.globalAlpha = (scene.trackOfHit[hit] ?? -1) >= 0 ? (dim ? 0.45 : 1) : dim ? 0.22 : 0.5;
      context.fillRect(px - size / 2, py - size / 2, size, size);
    }
    context.globalAlpha = 1;
  }

  private way(context: CanvasRenderingContext2D, view: Viewport, track: Track): void {
    const { path } = track;
    context.beginPath();
    for (let i = 0; i < path.length; i += 3) {
      const [x, y, z] = [path[i] as number, path[i + 1] as number, path[i + 2] as number];
      context.lineTo(toPixelX(view, this.across(x, y, z)), toPixelY(view, this.up_(x, y, z)));
    }
    context.stroke();
  }

  private paintTracks(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    const tone = theme();
    const { colourBy } = this.drawn.filters;
    const dim = this.drawn.picked !== null ? 0.25 : 1;
    // soft ones first, so that hard ones lie above them
    for (const track of [...this.drawn.visible].sort((a, b) => a.pt - b.pt)) {
      context.strokeStyle = scene.colourOfTrack(track, colourBy, tone);
      context.globalAlpha = dim * (track.pt < 1 ? 0.4 : track.pt < 3 ? 0.65 : 0.95);
      context.lineWidth = track.pt > 5 ? 1.7 : track.pt > 1 ? 1.1 : 0.8;
      this.way(context, view, track);
    }
    context.globalAlpha = 1;
  }

  private paintPicked(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    for (const [track, strong] of [[this.drawn.hoveredTrack, false], [this.drawn.pickedTrack, true]] as const) {
      if (track === null) continue;
      context.strokeStyle = colour("ground");
      context.lineWidth = 5;
      context.globalAlpha = 0.8;
      this.way(context, view, track);
      context.globalAlpha = 1;
      context.strokeStyle = strong ? colour("picked") : colour("text");
      context.lineWidth = strong ? 2.6 : 1.6;
      this.way(context, view, track);
      context.fillStyle = colour("ground");
      context.lineWidth = 1.8;
      for (const hit of track.hits) {
        const { x, y, z } = scene.event.hits;
        const [hx, hy, hz] = [x[hit] ?? 0, y[hit] ?? 0, z[hit] ?? 0];
        context.beginPath();
        context.arc(toPixelX(view, this.across(hx, hy, hz)), toPixelY(view, this.up_(hx, hy, hz)), strong ? 4.2 : 3.2, 0, 2 * Math.PI);
        context.fill();
        context.stroke();
      }
    }
  }

  protected paintVertices(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    const { vertex: only } = this.drawn.filters;
    const tone = theme();
    for (const vertex of [...scene.vertices].reverse()) {
      if (only !== null && only !== vertex.index) continue;
      const px = toPixelX(view, this.across(0, 0, vertex.z));
      const py = toPixelY(view, this.up_(0, 0, vertex.z));
      context.fillStyle = scene.colourOfTrack({ vertex: vertex.index } as Track, "vertex", tone);
      context.strokeStyle = colour("ground");
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(px, py, vertex.index === 0 ? 5 : 3.5, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  /** The visible track nearest to a pixel; null if none is within reach. */
  nearest(px: number, py: number): Track | null {
    const { view } = this;
    if (view === null) return null;
    let best: Track | null = null;
    let least = REACH_PX * REACH_PX;
    for (const track of this.drawn.visible) {
      const { path } = track;
      let [ax, ay] = [0, 0];
      for (let i = 0; i < path.length; i += 3) {
        const [x, y, z] = [path[i] as number, path[i + 1] as number, path[i + 2] as number];
        const [bx, by] = [toPixelX(view, this.across(x, y, z)), toPixelY(view, this.up_(x, y, z))];
        const d = i === 0 ? Infinity : distance2(px, py, ax, ay, bx, by);
        if (d < least) [least, best] = [d, track];
        [ax, ay] = [bx, by];
      }
    }
    return best;
  }

  private wheel(event: WheelEvent): void {
    if (this.view === null || this.home === null) return;
    event.preventDefault();
    const step = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * 16 : event.deltaY;
    this.view = zoom(this.view, event.offsetX, event.offsetY, Math.exp(-step * 0.0016), this.home);
    this.redraw();
  }

  private down(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.drag = { x: event.offsetX, y: event.offsetY, moved: false };
    this.canvas.setPointerCapture(event.pointerId);
  }

  private move(event: PointerEvent): void {
    const { drag } = this;
    if (drag === null) {
      const track = this.nearest(event.offsetX, event.offsetY);
      this.drawn.hover(track?.index ?? null);
      this.tell(track, event);
      return;
    }
    const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
    if (!drag.moved && Math.hypot(dx, dy) < 4) return;
    if (this.view !== null) this.view = pan(this.view, dx, dy);
    this.drag = { x: event.offsetX, y: event.offsetY, moved: true };
    this.tell(null, event);
    this.redraw();
  }

  private up(event: PointerEvent): void {
    const moved = this.drag?.moved ?? true;
    this.drag = null;
    if (!moved) this.drawn.pick(this.nearest(event.offsetX, event.offsetY)?.index ?? null);
  }

  private leave(): void {
    this.drawn.hover(null);
    this.tip.hidden = true;
  }

  private tell(track: Track | null, event: PointerEvent): void {
    this.tip.hidden = track === null;
    this.canvas.style.cursor = track === null ? "grab" : "pointer";
    if (track === null) return;
    this.tip.textContent = `pT ${track.pt.toPrecision(3)} GeV  η ${track.eta.toFixed(2)}`;
    const left = Math.min(event.offsetX + 14, this.element.clientWidth - 150);
    this.tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, event.offsetY - 30)}px)`;
  }
}

/** A small text with a halo of the ground, readable on lines. */
export function label(context: CanvasRenderingContext2D, text: string, x: number, y: number, align: CanvasTextAlign, baseline: CanvasTextBaseline): void {
  context.font = '11px "Inter Variable", sans-serif';
  context.textAlign = align;
  context.textBaseline = baseline;
  context.lineWidth = 3;
  context.strokeStyle = colour("ground");
  context.strokeText(text, x, y);
  context.fillStyle = colour("muted");
  context.fillText(text, x, y);
}
