// How values are sorted: numbers by size, texts as people read them (worker-2 before worker-10), nothing last. Pure.
export type Sortable = number | string | null | undefined;

const reading = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

export function compare(a: Sortable, b: Sortable): number {
  const nothing = (value: Sortable): boolean => value === null || value === undefined || Number.isNaN(value);
  if (nothing(a) || nothing(b)) return Number(nothing(a)) - Number(nothing(b));
  if (typeof a === "number" && typeof b === "number") return a - b;
  return reading.compare(String(a), String(b));
}
