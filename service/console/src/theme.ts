// Dark or light: as the system says, or as chosen here; and the colours of the style sheet for what is drawn.
type Theme = "dark" | "light";
const KEY = "hltfarm.theme";
const system = matchMedia("(prefers-color-scheme: light)");
const listeners = new Set<() => void>();

export function theme(): Theme {
  const chosen = localStorage.getItem(KEY);
  return chosen === "dark" || chosen === "light" ? chosen : system.matches ? "light" : "dark";
}

function apply(): void {
  document.documentElement.dataset["theme"] = theme();
  cache.clear();
  for (const listener of [...listeners]) listener();
}

export function install(): void {
  system.addEventListener("change", apply);
  apply();
}

export function switchTheme(): void {
  const next = theme() === "dark" ? "light" : "dark";
  if ((next === "light") === system.matches) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, next);
  apply();
}

export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const cache = new Map<string, string>();

/** A colour of the style sheet: `colour("text")` is --text. */
export function colour(name: string): string {
  let value = cache.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    cache.set(name, value);
  }
  return value;
}
