import { strict as assert } from "node:assert";
import { test } from "node:test";
import { ago, bytes, clock, count, duration, milliseconds, percent, plain, prefixed, rate, significant, stateWords } from "./format";

const spaced = (text: string): string => text.replaceAll(/[\u202f\u00a0]/g, " ");

test("counts are grouped by three from five digits on", () => {
  assert.deepEqual([0, 999, 1234, 12_345, 1_234_567, -12_345].map((n) => spaced(count(n))), ["0", "999", "1234", "12 345", "1 234 567", "−12 345"]);
  assert.deepEqual([count(null), count(undefined), count(NaN)], ["–", "–", "–"]);
});

test("three digits count, whatever the size", () => {
  assert.deepEqual([0, 0.01234, 1.234, 9.996, 12.34, 99.96, 123.4, 12_345].map((n) => spaced(significant(n))), ["0", "0.0123", "1.23", "10.0", "12.3", "100", "123", "12 345"]);
  assert.equal(significant(-0.5), "−0.500");
});

test("rates take the prefix that fits, also where rounding carries", () => {
  assert.deepEqual([0, 3.21, 999.4, 999.9, 12_345, 750_000, 2.5e6].map((n) => spaced(rate(n))), ["0 Hz", "3.21 Hz", "999 Hz", "1.00 kHz", "12.3 kHz", "750 kHz", "2.50 MHz"]);
  assert.equal(prefixed(null, "B/s"), "–");
});

test("times, sizes and shares", () => {
  assert.deepEqual([0.5, 12.34, 1500].map((n) => spaced(milliseconds(n))), ["0.500 ms", "12.3 ms", "1.50 s"]);
  assert.deepEqual([512, 1536, 5 * 2 ** 20, 2 ** 40].map((n) => spaced(bytes(n))), ["512 B", "1.50 KiB", "5.00 MiB", "1.00 TiB"]);
  assert.deepEqual([0, 0.1234, 0.99999, 1].map((n) => spaced(percent(n))), ["0 %", "12.3 %", "> 99.9 %", "100 %"]);
  assert.deepEqual([5, 65, 3725, 90_061].map((n) => spaced(duration(n))), ["0:05", "1:05", "1:02:05", "1 d 01:01:01"]);
  assert.deepEqual([0, 12, 300, 7200, 200_000].map((n) => spaced(ago(n))), ["now", "12 s ago", "5 min ago", "2 h ago", "2 d ago"]);
});

test("a time of another day has its date", () => {
  const now = new Date(2026, 0, 31, 12, 0, 0);
  assert.equal(clock(new Date(2026, 0, 31, 9, 5, 7).toISOString(), now), "09:05:07");
  assert.equal(clock(new Date(2026, 0, 30, 9, 5, 7).toISOString(), now), "2026-01-30 09:05:07");
  assert.equal(clock(null, now), "–");
});

test("codes become words", () => {
  assert.equal(stateWords("RunningDegraded"), "Running, degraded");
  assert.equal(stateWords("Paused"), "Paused");
  assert.equal(plain("WORKER_FAILED"), "worker failed");
});
