// The two projections: r-φ, along the beam, and r-z, with the radius upwards.
import { colour } from "../theme";
import type { Drawn } from "./drawn";
import { label, Plane } from "./plane";
import type { Scene } from "./scene";
import { type Box, niceStep, ticks, toPixelX, toPixelY, toWorldX, toWorldY, type Viewport } from "./viewport";

export class RPhi extends Plane {
  protected readonly square = true;
  protected readonly margin = [14, 14, 26, 14] as const;

  constructor(drawn: Drawn) {
    super(drawn, "r-φ", "The event seen along the beam, x to the right and y upwards");
  }

  protected across = (x: number): number => x;
  protected up_ = (_x: number, y: number): number => y;

  protected box(scene: Scene): Box {
    const { r } = scene.extent;
    return { x0: -r, x1: r, y0: -r, y1: r };
  }

  protected ground(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    const { x, y } = scene.spot;
    const [cx, cy] = [toPixelX(view, -x), toPixelY(view, -y)];
    context.strokeStyle = colour("detector");
    for (const layer of scene.geometry.layers) {
      if (layer.part !== "barrel") continue;
      const width = Math.max(1.5, (layer.r_max - layer.r_min) * view.sx);
      context.lineWidth = width;
      context.globalAlpha = 0.55;
      context.beginPath();
      context.arc(cx, cy, ((layer.r_min + layer.r_max) / 2) * view.sx, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  protected axes(context: CanvasRenderingContext2D, view: Viewport): void {
    const length = niceStep(45 / view.sx);
    const [x, y] = [14, view.height - 14];
    context.strokeStyle = colour("muted");
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, y - 4);
    context.lineTo(x, y);
    context.lineTo(x + length * view.sx, y);
    context.lineTo(x + length * view.sx, y - 4);
    context.stroke();
    label(context, length < 0.1 ? `${Number((length * 1e4).toPrecision(3))} µm` : length < 1 ? `${Number((length * 10).toPrecision(3))} mm` : `${length} cm`, x + (length * view.sx) / 2, y - 6, "center", "bottom");
  }
}

const ETAS = [0, 0.5, 1, 1.5, 2, 2.5];

export class RZ extends Plane {
  protected readonly square = false;
  protected readonly margin = [44, 40, 26, 34] as const;

  constructor(drawn: Drawn) {
    super(drawn, "r-z", "The event with z to the right and the distance from the beam line upwards");
  }

  protected across = (_x: number, _y: number, z: number): number => z;
  protected up_ = (x: number, y: number): number => Math.hypot(x, y);

  protected box(scene: Scene): Box {
    const { r, z } = scene.extent;
    return { x0: -1.03 * z, x1: 1.03 * z, y0: 0, y1: 1.06 * r };
  }

  protected ground(context: CanvasRenderingContext2D, view: Viewport, scene: Scene): void {
    const shift = scene.spot.z;
    context.fillStyle = colour("detector");
    context.globalAlpha = 0.55;
    for (const layer of scene.geometry.layers) {
      const [x0, x1] = [toPixelX(view, layer.z_min - shift), toPixelX(view, layer.z_max - shift)];
      const [y0, y1] = [toPixelY(view, layer.r_max), toPixelY(view, layer.r_min)];
      context.fillRect(x0, y0, Math.max(1.5, x1 - x0), Math.max(1.5, y1 - y0));
    }
    context.globalAlpha = 1;
  }

  protected axes(context: CanvasRenderingContext2D, view: Viewport): void {
    const [left, right, top, bottom] = this.margin;
    const [x0, x1, y0, y1] = [left, view.width - right, top, view.height - bottom];
    this.etas(context, view, [x0, x1, y0, y1]);
    context.strokeStyle = colour("faint");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x0 - 0.5, y0);
    context.lineTo(x0 - 0.5, y1 + 0.5);
    context.lineTo(x1, y1 + 0.5);
    context.stroke();
    for (const z of ticks(toWorldX(view, x0), toWorldX(view, x1), x1 - x0, 70)) {
      const x = toPixelX(view, z);
      this.tick(context, x, y1, x, y1 + 4);
      label(context, `${z}`.replace("-", "−"), x, y1 + 6, "center", "top");
    }
    for (const r of ticks(Math.max(0, toWorldY(view, y1)), toWorldY(view, y0), y1 - y0, 36)) {
      const y = toPixelY(view, r);
      this.tick(context, x0, y, x0 - 4, y);
      label(context, `${r}`, x0 - 7, y, "right", "middle");
    }
    label(context, "z [cm]", x1, y1 + 19, "right", "top");
    label(context, "r [cm]", 6, 8, "left", "top");
  }

  /** Marks of pseudorapidity around the frame, as seen from the middle of the beam spot. */
  private etas(context: CanvasRenderingContext2D, view: Viewport, [x0, x1, y0, y1]: [number, number, number, number]): void {
    const [ox, oy] = [toPixelX(view, 0), toPixelY(view, 0)];
    if (ox < x0 || ox > x1 || oy < y0 || oy > y1 + 1) return;
    context.strokeStyle = colour("faint");
    for (const eta of [...ETAS, ...ETAS.slice(1).map((value) => -value)]) {
      const [dx, dy] = [Math.sinh(eta) * view.sx, -view.sy];
      const reach = Math.min((y0 - oy) / dy, dx === 0 ? Infinity : ((dx > 0 ? x1 : x0) - ox) / dx);
      const [x, y] = [ox + dx * reach, oy + dy * reach];
      const above = y < y0 + 1;
      this.tick(context, x, y, above ? x : x + (dx > 0 ? 4 : -4), above ? y0 - 4 : y);
      if (above) label(context, `${eta === 0 ? "η = 0" : eta}`.replace("-", "−"), x, y0 - 6, "center", "bottom");
      else if (dx > 0) label(context, `${eta}`, x1 + 7, y, "left", "middle");
    }
  }

  private tick(context: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void {
    context.strokeStyle = colour("faint");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }
}
