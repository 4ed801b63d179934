// Colours of tracks and hits. Pure: the style sheet is not asked, but whether it is light.

/** Told apart in both themes, also with colour-blind eyes for the first five; vertex 0 is the hardest. */
const DARK = ["#2dd4bf", "#f5b54a", "#60a5fa", "#f472b6", "#a3e635", "#c084fc", "#fb923c", "#22d3ee", "#f87171", "#facc15"];
const LIGHT = ["#0f8a7e", "#b86e00", "#2563eb", "#be185d", "#4d7c0f", "#7e22ce", "#c2410c", "#0e7490", "#b91c1c", "#a16207"];
const NONE = { dark: "#6b7c90", light: "#8694a5" };

export type Tone = "dark" | "light";

export function ofVertex(vertex: number, tone: Tone): string {
  if (vertex < 0) return NONE[tone];
  const list = tone === "dark" ? DARK : LIGHT;
  return list[vertex % list.length] as string;
}

/** Stops of the scale of pt, from soft to hard; brightness grows away from the ground in both themes. */
const SCALE: Record<Tone, [number, number, number][]> = {
  dark: [[74, 88, 140], [46, 125, 160], [38, 166, 142], [140, 201, 80], [250, 224, 60]],
  light: [[150, 170, 205], [70, 140, 180], [20, 120, 120], [60, 90, 30], [120, 40, 0]],
};
export const PT_RANGE: [number, number] = [0.3, 30];

export function ofPt(pt: number, tone: Tone): string {
  const [low, high] = PT_RANGE;
  const place = Math.log(Math.max(pt, 1e-6) / low) / Math.log(high / low);
  return blend(SCALE[tone], place);
}

const QUALITY: Record<Tone, string[]> = {
  dark: ["#f87171", "#f5b54a", "#60a5fa", "#2dd4bf"],
  light: ["#b91c1c", "#b86e00", "#2563eb", "#0f8a7e"],
};

export const ofQuality = (quality: number, tone: Tone): string => QUALITY[tone][Math.min(3, Math.max(0, quality))] as string;

/** Hits by layer, quiet: they are the ground on which tracks stand. */
export function ofLayer(place: number, part: "barrel" | "endcap", tone: Tone): string {
  const stops: [number, number, number][] =
    tone === "dark"
      ? part === "barrel" ? [[122, 162, 247], [94, 129, 210]] : [[187, 154, 247], [137, 110, 200]]
      : part === "barrel" ? [[59, 100, 190], [110, 145, 215]] : [[125, 80, 190], [165, 130, 215]];
  return blend(stops, place);
}

export function blend(stops: readonly [number, number, number][], place: number): string {
  const at = Math.min(1, Math.max(0, Number.isFinite(place) ? place : 0)) * (stops.length - 1);
  const index = Math.min(stops.length - 2, Math.floor(at));
  const part = at - index;
  const [a, b] = [stops[index] as [number, number, number], stops[index + 1] as [number, number, number]];
  const channel = (i: 0 | 1 | 2): number => Math.round(a[i] + (b[i] - a[i]) * part);
  return `#${[channel(0), channel(1), channel(2)].map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}
