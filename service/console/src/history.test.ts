import { strict as assert } from "node:assert";
import { test } from "node:test";
import { answered, away, delay, failed, UNKNOWN } from "./backoff";
import { History } from "./history";
import type { HistoryAnswer } from "./types";

function answer(time: number[], paths: Record<string, number[]> = {}): HistoryAnswer {
  const of = (scale: number): number[] => time.map((t) => t * scale);
  return {
    interval_s: 1, time, state: time.map(() => "Running"), received_hz: of(1), accepted_hz: of(0.5), rejected_hz: of(0.5), error_hz: of(0), in_flight: of(2),
    mb_per_s: of(3), latency_p50_ms: of(4), latency_p99_ms: of(5), workers_ready: of(0), workers: of(0), paths, stages_ms: {},
  };
}

test("samples are taken once, in order", () => {
  const history = new History();
  history.append(answer([1, 2, 3]));
  history.append(answer([2, 3, 4]));
  history.append(answer([]));
  assert.deepEqual(history.time, [1, 2, 3, 4]);
  assert.deepEqual(history.column("latency_p99_ms"), [5, 10, 15, 20]);
  assert.equal(history.newest, 4);
  assert.equal(history.last("received_hz"), 4);
});

test("a path that appears later has nothing before, one that goes has nothing after", () => {
  const history = new History();
  history.append(answer([1, 2], { a: [10, 20] }));
  history.append(answer([3], { b: [7] }));
  assert.deepEqual(history.paths, { a: [10, 20, null], b: [null, null, 7] });
});

test("memory is bounded, also by paths of the past", () => {
  const history = new History(3);
  history.append(answer([1], { old: [1] }));
  for (let time = 2; time < 50; time += 1) history.append(answer([time], { [`p${time}`]: [1] }));
  assert.deepEqual(history.time, [47, 48, 49]);
  assert.deepEqual(history.column("received_hz"), [47, 48, 49]);
  assert.deepEqual(Object.keys(history.paths).sort(), ["p47", "p48", "p49"]);
});

test("a clock that was set back begins anew", () => {
  const history = new History();
  history.append(answer([1000, 1001]));
  history.append(answer([500, 501]));
  assert.deepEqual(history.time, [500, 501]);
});

test("a farm that is away is asked less and less often, and at once as before when it is back", () => {
  let contact = UNKNOWN;
  assert.equal(delay(contact, 1000), 1000);
  const waits: number[] = [];
  for (let i = 0; i < 6; i += 1) waits.push(delay((contact = failed(contact)), 1000));
  assert.deepEqual(waits, [1000, 2000, 4000, 8000, 10_000, 10_000]);
  assert.equal(delay(failed(UNKNOWN), 5000), 5000);
  assert.deepEqual(answered(7), { answeredAt: 7, failures: 0 });
});

test("one lost answer is no alarm, unless there never was one", () => {
  assert.equal(away(failed(answered(7))), false);
  assert.equal(away(failed(failed(answered(7)))), true);
  assert.equal(away(failed(UNKNOWN)), true);
  assert.equal(away(answered(7)), false);
});
