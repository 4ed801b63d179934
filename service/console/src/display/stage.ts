// The projections of an event side by side, or one of them alone.
import { h, say, show } from "../dom";
import { onTheme } from "../theme";
import type { Drawn } from "./drawn";
import { RPhi, RZ } from "./planes";
import type { Space } from "./space";

export type Layout = "all" | "rphi" | "rz" | "space";
const LAYOUTS: [Layout, string, string][] = [["all", "All", "a"], ["rphi", "r-φ", "x"], ["rz", "r-z", "z"], ["space", "3-D", "d"]];

export class Stage {
  readonly element: HTMLElement;
  readonly switch: HTMLElement;
  private readonly rphi: RPhi;
  private readonly rz: RZ;
  private space: Space | null = null;
  private readonly place = h("div", { class: "space-place" });
  private readonly waiting = h("p", { class: "empty" }, "Loading the 3-D view …");
  private layout: Layout = "all";

  constructor(private readonly drawn: Drawn) {
    this.rphi = new RPhi(drawn);
    this.rz = new RZ(drawn);
    this.place.append(this.waiting);
    this.element = h("div", { class: "stage", "data-layout": "all" }, this.rphi.element, this.place, this.rz.element);
    this.switch = h("div", { class: "segments", role: "group", "aria-label": "Projections" });
    for (const [name, label, key] of LAYOUTS) {
      this.switch.append(h("button", { type: "button", "data-layout": name, title: `key ${key}`, "aria-pressed": name === "all" ? "true" : "false", onclick: () => this.show(name) }, label));
    }
    onTheme(() => drawn.repaint());
  }

  show(layout: Layout): void {
    this.layout = layout;
    this.element.dataset["layout"] = layout;
    for (const element of Array.from(this.switch.children)) element.setAttribute("aria-pressed", `${(element as HTMLElement).dataset["layout"] === layout}`);
    void this.ready();
  }

  reset(): void {
    this.rphi.reset();
    this.rz.reset();
    this.space?.reset();
  }

  /** Keys of the stage; whether it was one. */
  key(key: string): boolean {
    const layout = LAYOUTS.find(([, , name]) => name === key)?.[0];
    if (layout !== undefined) this.show(layout);
    else if (key === "0") this.reset();
    else if (key === "Escape") this.drawn.pick(null);
    else return false;
    return true;
  }

  /** The 3-D view is loaded when it is first wanted: its library is larger than all the rest. */
  async ready(): Promise<void> {
    if (this.space !== null || (this.layout !== "all" && this.layout !== "space")) return;
    try {
      const { Space } = await import("./space");
      this.space ??= new Space(this.drawn);
      this.place.replaceChildren(this.space.element);
    } catch (error) {
      show(this.waiting, true);
      say(this.waiting, `No 3-D view: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
