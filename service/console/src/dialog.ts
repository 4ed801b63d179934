// Questions to people. The browser's own dialog element: Escape closes it, focus stays in it and returns afterwards.
import { button, h } from "./dom";

interface Question {
  title: string;
  text: string;
  act: string;
  danger?: boolean;
  /** Anything to fill in, between the text and the buttons. */
  fields?: HTMLElement[];
}

/** Whether the answer is yes. */
export function ask(question: Question): Promise<boolean> {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "dialog", "aria-label": question.title });
    const form = h("form", { method: "dialog" });
    const yes = h("button", { type: "submit", value: "yes", class: `button ${question.danger === true ? "danger" : "primary"}` }, question.act);
    const no = button("Cancel", "", () => dialog.close("no"));
    form.append(h("h2", {}, question.title), h("p", {}, question.text), ...(question.fields ?? []), h("div", { class: "dialog-buttons" }, no, yes));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close("yes");
    });
    dialog.append(form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector<HTMLElement>("input, select") ?? (question.danger === true ? no : yes)).focus();
  });
}

/** A token, or null if none is given. */
export async function askToken(why: string): Promise<string | null> {
  const input = h("input", { type: "password", class: "input", "aria-label": "Token", autocomplete: "off", spellcheck: "false", required: true });
  const note = h("p", { class: "hint" }, "It is kept in this tab until you close it, and sent to this farm alone.");
  const yes = await ask({ title: "This farm asks for a token", text: why, act: "Use it", fields: [input, note] });
  const token = input.value.trim();
  return yes && token !== "" ? token : null;
}

const KEYS: [string, string][] = [
  ["1 … 7", "the views, from left to right"],
  ["j, k", "next, previous event of the list"],
  ["a, x, z, d", "event: all projections, r-φ, r-z, 3-D alone"],
  ["↑, ↓", "next, previous row of a table that has the focus"],
  ["0", "event: whole detector in view"],
  ["Esc", "let go of the picked track"],
  ["t", "dark or light"],
  ["?", "this list"],
];

export function showKeys(): void {
  if (document.querySelector("dialog") !== null) return;
  const list = h("dl", { class: "keys" });
  for (const [key, what] of KEYS) list.append(h("dt", {}, ...key.split(", ").map((name) => h("kbd", {}, name))), h("dd", {}, what));
  const dialog = h("dialog", { class: "dialog", "aria-label": "Keys" });
  dialog.append(h("h2", {}, "Keys"), list, h("div", { class: "dialog-buttons" }, button("Close", "primary", () => dialog.close())));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
