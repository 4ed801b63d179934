import { strict as assert } from "node:assert";
import { test } from "node:test";
import { keyed } from "./dom";

/** As much of an element as lists of elements need. */
class Fake {
  readonly dataset: Record<string, string> = {};
  readonly children: Fake[] = [];
  parent: Fake | null = null;
  said = "";

  get firstElementChild(): Fake | null {
    return this.children[0] ?? null;
  }

  get nextElementSibling(): Fake | null {
    const beside = this.parent?.children ?? [];
    return beside[beside.indexOf(this) + 1] ?? null;
  }

  remove(): void {
    this.parent?.children.splice(this.parent.children.indexOf(this), 1);
    this.parent = null;
  }

  insertBefore(element: Fake, place: Fake | null): void {
    element.remove();
    this.children.splice(place === null ? this.children.length : this.children.indexOf(place), 0, element);
    element.parent = this;
  }
}

function listed(parent: Fake, texts: string[]): string[] {
  keyed(parent as unknown as Element, texts, (text) => text, () => new Fake() as unknown as HTMLElement, (element, text) => ((element as unknown as Fake).said = text));
  return parent.children.map((child) => child.said);
}

test("children that stay are kept, in the order of the items", () => {
  const parent = new Fake();
  listed(parent, ["a", "b", "c"]);
  const [a, b] = parent.children;
  assert.deepEqual(listed(parent, ["b", "d", "a"]), ["b", "d", "a"]);
  assert.ok(parent.children[0] === b && parent.children[2] === a);
});

test("items of one key are as many elements as items, however often they are told", () => {
  const parent = new Fake();
  for (let i = 0; i < 100; i += 1) assert.deepEqual(listed(parent, ["a", "lost", "lost", "z"]), ["a", "lost", "lost", "z"]);
  assert.deepEqual(listed(parent, ["lost"]), ["lost"]);
});
