import { strict as assert } from "node:assert";
import { test } from "node:test";
import { canaries } from "./exposition";

test("canaries by worker, from the page of metrics", () => {
  const text = [
    "# TYPE hlt_canary_timestamp_seconds gauge",
    'hlt_canary_timestamp_seconds{worker="worker-0"} 1.795e+09',
    'hlt_canary_failures_total{worker="worker-0"} 2.0',
    'hlt_worker_distrusted{worker="worker-0"} 0.0',
    'hlt_worker_distrusted{worker="gpu-1"} 1.0',
    'hlt_worker_ready{worker="worker-0"} 1.0',
  ].join("\n");
  const found = canaries(text);
  assert.deepEqual(found.get("worker-0"), { at: 1.795e9, failures: 2, distrusted: false });
  assert.deepEqual(found.get("gpu-1"), { at: 0, failures: 0, distrusted: true });
  assert.equal(canaries("").size, 0);
});
