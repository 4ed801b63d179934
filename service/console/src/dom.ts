// Elements from code: nothing is ever parsed as HTML, so what the farm says cannot become markup.

type Child = Node | string | null | undefined | false;
type Props = Record<string, string | number | boolean | ((event: Event) => void) | undefined>;

/** An element. `on...` are listeners, booleans are attributes that are there or not, "class" and the rest are attributes. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  decorate(element, props);
  append(element, children);
  return element;
}

export function svg(tag: string, props: Props = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  decorate(element, props);
  append(element, children);
  return element;
}

function decorate(element: Element, props: Props): void {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, String(value));
  }
}

function append(element: Element, children: Child[]): void {
  for (const child of children) if (child !== null && child !== undefined && child !== false) element.append(child);
}

/** Set a text if it differs: what does not change keeps its selection and costs no layout. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

export function toggle(element: Element, name: string, on: boolean): void {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

export function show(element: HTMLElement, visible: boolean): void {
  if (element.hidden === visible) element.hidden = !visible;
}

export function attribute(element: Element, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Children by key: those that stay are kept as elements, so that focus and hover survive an update. */
export function keyed<T, E extends HTMLElement>(parent: Element, items: readonly T[], key: (item: T) => string, make: (item: T) => E, update: (element: E, item: T) => void): void {
  const known = new Map<string, E>();
  for (const child of Array.from(parent.children)) known.set((child as E).dataset["key"] ?? "", child as E);
  let place: Element | null = parent.firstElementChild;
  const taken = new Map<string, number>();
  for (const item of items) {
    // items of one key are told apart by their order: an element without a key of its own would be left behind with every update
    const own = key(item);
    const before = taken.get(own) ?? 0;
    taken.set(own, before + 1);
    const name = before === 0 ? own : `${own}\n${before}`;
    let element = known.get(name);
    if (element === undefined) {
      element = make(item);
      element.dataset["key"] = name;
    }
    known.delete(name);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const gone of known.values()) gone.remove();
}

/** A card with a heading. */
export function card(title: string, classes: string, ...children: Child[]): HTMLElement {
  return h("section", { class: `card ${classes}`, "aria-label": title }, h("header", { class: "card-head" }, h("h2", {}, title)), ...children);
}

/** A small coloured word. */
export function badge(text: string, tone: string): HTMLElement {
  return h("span", { class: `badge tone-${tone}` }, text);
}

export const button = (label: string, classes: string, act: () => void, title?: string): HTMLButtonElement =>
  h("button", { type: "button", class: `button ${classes}`, onclick: () => act(), title }, label);
