// From the plane of a projection to pixels and back; zoom and pan. Pure.

export interface Box {
  x0: number;
  x1: number;
  y0: number;
  y1: number;
}

/** World x, y of the middle of the view, pixels per cm in both directions. */
export interface Viewport {
  x: number;
  y: number;
  sx: number;
  sy: number;
  width: number;
  height: number;
}

/** All of the box in view, within margins of [left, right, top, bottom] pixels. `square`: one scale for both directions. */
export function fit(box: Box, width: number, height: number, margin: readonly [number, number, number, number], square: boolean): Viewport {
  const [left, right, top, bottom] = margin;
  let sx = Math.max(1, width - left - right) / (box.x1 - box.x0);
  let sy = Math.max(1, height - top - bottom) / (box.y1 - box.y0);
  if (square) sx = sy = Math.min(sx, sy);
  return { x: (box.x0 + box.x1) / 2 + (right - left) / 2 / sx, y: (box.y0 + box.y1) / 2 + (top - bottom) / 2 / sy, sx, sy, width, height };
}

export const toPixelX = (view: Viewport, x: number): number => view.width / 2 + (x - view.x) * view.sx;
export const toPixelY = (view: Viewport, y: number): number => view.height / 2 - (y - view.y) * view.sy;
export const toWorldX = (view: Viewport, px: number): number => view.x + (px - view.width / 2) / view.sx;
export const toWorldY = (view: Viewport, py: number): number => view.y - (py - view.height / 2) / view.sy;

/** Larger by `factor`; what is under the pixel stays there. */
export function zoom(view: Viewport, px: number, py: number, factor: number, home: Viewport): Viewport {
  const wanted = view.sx * factor;
  const applied = Math.min(home.sx * 400, Math.max(home.sx * 0.5, wanted)) / view.sx;
  const [wx, wy] = [toWorldX(view, px), toWorldY(view, py)];
  return { ...view, sx: view.sx * applied, sy: view.sy * applied, x: wx - (wx - view.x) / applied, y: wy - (wy - view.y) / applied };
}

export const pan = (view: Viewport, dx: number, dy: number): Viewport => ({ ...view, x: view.x - dx / view.sx, y: view.y + dy / view.sy });

/** Round numbers for an axis: about one every `space` pixels, in steps of 1, 2 or 5. */
export function ticks(from: number, to: number, pixels: number, space: number): number[] {
  const step = niceStep(((to - from) * space) / Math.max(1, pixels));
  const found: number[] = [];
  for (let i = Math.ceil(from / step); i * step <= to; i += 1) found.push(Number((i * step).toPrecision(10)));
  return found;
}

/** The smallest of 1, 2, 5 times a power of ten that is not below. */
export function niceStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  for (const step of [1, 2, 5, 10]) if (step * power >= least * (1 - 1e-9)) return step * power;
  return 10 * power;
}

/** Square of the distance from a point to a segment, all in pixels. */
export function distance2(px: number, py: number, ax: number, ay: number, bx: number, by: number): number {
  const [dx, dy] = [bx - ax, by - ay];
  const length2 = dx * dx + dy * dy;
  const t = length2 === 0 ? 0 : Math.min(1, Math.max(0, ((px - ax) * dx + (py - ay) * dy) / length2));
  const [ex, ey] = [px - ax - t * dx, py - ay - t * dy];
  return ex * ex + ey * ey;
}
