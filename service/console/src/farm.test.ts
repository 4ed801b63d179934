import { strict as assert } from "node:assert";
import { test } from "node:test";
import { stale } from "./farm";
import type { Run } from "./types";

const run = (started: string | null, stopped: string | null): Run => ({
  number: 7, farm: "f", detector: "phase1", menu_hash: "", models: null, outcome: "open", created: "2026-01-01T00:00:00Z", started, stopped, ledger: null,
});

test("a run is asked for until nothing about it can change", () => {
  assert.equal(stale(null, 7, "Running"), true);
  assert.equal(stale(run("2026-01-01T00:00:01Z", null), 8, "Running"), true);
  assert.equal(stale(run(null, null), 7, "Configured"), true);
  assert.equal(stale(run("2026-01-01T00:00:01Z", null), 7, "Running"), false);
  assert.equal(stale(run("2026-01-01T00:00:01Z", null), 7, "Configured"), true);
  assert.equal(stale(run("2026-01-01T00:00:01Z", "2026-01-01T00:09:00Z"), 7, "Configured"), false);
});
