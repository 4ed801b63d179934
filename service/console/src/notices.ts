// Short messages at the corner of the page; faults stay until they are closed.
import { button, h } from "./dom";

const SHOWN_MS = 6_000;
const MOST = 5;
const list = h("div", { class: "notices", role: "status", "aria-live": "polite" });

export function install(): void {
  document.body.append(list);
}

export function notice(text: string, tone: "good" | "bad" | "info" = "info"): void {
  const close = button("×", "quiet", () => element.remove(), "Close");
  close.setAttribute("aria-label", "Close");
  const element = h("div", { class: `notice tone-${tone}` }, h("span", {}, text), close);
  list.append(element);
  while (list.children.length > MOST) list.firstElementChild?.remove();
  if (tone !== "bad") setTimeout(() => element.remove(), SHOWN_MS);
}
