// What a view is: one part of the page, shown under a name in the address (`#/name/argument`).
import { words } from "../api";
import { h, say, show } from "../dom";

export interface View {
  readonly element: HTMLElement;
  /** It is looked at from now on; `argument` is what follows the name. Called again when the argument changes. */
  open(argument: string | null): void;
  /** Nobody looks any more. */
  close(): void;
}

/** A line that tells why a part of the page has nothing to show; empty while it has. */
export class Fault {
  readonly element = h("p", { class: "fault", hidden: true, role: "alert" });

  tell(error: unknown): void {
    show(this.element, error !== null);
    say(this.element, error === null ? "" : words(error));
  }
}

export function heading(title: string, text: string): HTMLElement {
  return h("div", { class: "heading" }, h("h1", {}, title), h("p", {}, text));
}
