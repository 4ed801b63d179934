// A table whose columns can be sorted by, with rows that can be picked by mouse and keyboard.
import { attribute, h, keyed, say, show, toggle } from "./dom";
import { compare, type Sortable } from "./order";

export interface ColumnOf<R> {
  key: string;
  title: string;
  /** What is sorted by; a column without it cannot be. */
  value?: (row: R) => Sortable;
  /** What is shown: a text, or elements that are made once a row and updated by `fill`. */
  text?: (row: R) => string;
  make?: (row: R) => HTMLElement;
  fill?: (cell: HTMLElement, row: R) => void;
  classes?: string;
  hint?: string;
}

export interface TableOptions<R> {
  columns: ColumnOf<R>[];
  key: (row: R) => string;
  label: string;
  empty: string;
  sort?: { key: string; descending: boolean };
  pick?: (row: R) => void;
  hover?: (row: R | null) => void;
  rowClass?: (row: R) => string;
}

export class Table<R> {
  readonly element: HTMLElement;
  private readonly body = h("tbody");
  private readonly heads = new Map<string, HTMLTableCellElement>();
  private readonly none: HTMLElement;
  private rows: readonly R[] = [];
  private shown: R[] = [];
  private order: { key: string; descending: boolean } | undefined;
  private selected: string | null = null;

  constructor(private readonly options: TableOptions<R>) {
    this.order = options.sort;
    this.none = h("p", { class: "empty" }, options.empty);
    const head = h("tr");
    for (const column of options.columns) {
      const title = column.value === undefined ? column.title : h("button", { type: "button", class: "sort", onclick: () => this.sortBy(column.key) }, column.title);
      const cell = h("th", { scope: "col", class: column.classes, title: column.hint }, title);
      this.heads.set(column.key, cell);
      head.append(cell);
    }
    const table = h("table", { "aria-label": options.label }, h("thead", {}, head), this.body);
    this.element = h("div", { class: "table", tabindex: options.pick === undefined ? undefined : 0, onkeydown: (event) => this.key(event as KeyboardEvent) }, table, this.none);
    if (options.hover !== undefined) this.body.addEventListener("mouseleave", () => options.hover?.(null));
    this.mark();
  }

  update(rows: readonly R[]): void {
    this.rows = rows;
    this.draw();
  }

  /** What to say while there are no rows. */
  whenEmpty(text: string): void {
    say(this.none, text);
  }

  /** Mark a row; brings it into view if `reveal`. */
  select(key: string | null, reveal = false): void {
    this.selected = key;
    for (const row of Array.from(this.body.children) as HTMLElement[]) {
      const on = row.dataset["key"] === key;
      toggle(row, "selected", on);
      attribute(row, "aria-selected", on ? "true" : null);
      if (on && reveal) row.scrollIntoView({ block: "nearest" });
    }
  }

  /** Rows in the order in which they are shown. */
  get ordered(): readonly R[] {
    return this.shown;
  }

  private sortBy(key: string): void {
    const numeric = this.options.columns.find((column) => column.key === key)?.classes?.includes("number") ?? false;
    this.order = this.order?.key === key ? { key, descending: !this.order.descending } : { key, descending: numeric };
    this.mark();
    this.draw();
  }

  private mark(): void {
    for (const [key, cell] of this.heads) attribute(cell, "aria-sort", this.order?.key === key ? (this.order.descending ? "descending" : "ascending") : null);
  }

  private draw(): void {
    const { options, order } = this;
    const value = options.columns.find((column) => column.key === order?.key)?.value;
    this.shown = value === undefined ? [...this.rows] : [...this.rows].sort((a, b) => (order?.descending === true ? -1 : 1) * compare(value(a), value(b)));
    keyed(this.body, this.shown, options.key, (row) => this.make(row), (element, row) => this.fill(element, row));
    show(this.none, this.shown.length === 0);
    this.select(this.selected);
  }

  private make(row: R): HTMLTableRowElement {
    const { pick, hover } = this.options;
    const element = h("tr", { class: pick === undefined ? undefined : "pickable" });
    const key = this.options.key(row);
    const current = (): R | undefined => this.shown.find((candidate) => this.options.key(candidate) === key);
    if (pick !== undefined) element.addEventListener("click", () => { const now = current(); if (now !== undefined) pick(now); });
    if (hover !== undefined) element.addEventListener("mouseenter", () => hover(current() ?? null));
    for (const column of this.options.columns) element.append(h("td", { class: column.classes }, column.make?.(row)));
    return element;
  }

  private fill(element: HTMLElement, row: R): void {
    this.options.columns.forEach((column, index) => {
      const cell = element.children[index] as HTMLElement;
      if (column.fill !== undefined) column.fill(cell, row);
      else if (column.text !== undefined) say(cell, column.text(row));
    });
    const extra = this.options.rowClass?.(row);
    if (extra !== undefined) element.className = `${this.options.pick === undefined ? "" : "pickable"} ${extra}`;
  }

  private key(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined || this.options.pick === undefined || event.target !== this.element) return;
    event.preventDefault();
    const at = this.shown.findIndex((row) => this.options.key(row) === this.selected);
    const next = this.shown[at < 0 ? (step > 0 ? 0 : this.shown.length - 1) : Math.min(this.shown.length - 1, Math.max(0, at + step))];
    if (next === undefined) return;
    this.options.pick(next);
    this.select(this.options.key(next), true);
  }
}
