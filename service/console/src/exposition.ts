// The few numbers that only the metrics page has. Pure.

export interface Canary {
  /** When the last good one was answered, seconds since 1970; 0 if none was. */
  at: number;
  failures: number;
  distrusted: boolean;
}

const LINE = /^(hlt_canary_timestamp_seconds|hlt_canary_failures_total|hlt_worker_distrusted)\{[^}]*worker="([^"]*)"[^}]*\} (\S+)$/gm;

export function canaries(text: string): Map<string, Canary> {
  const found = new Map<string, Canary>();
  for (const [, name, worker, value] of text.matchAll(LINE)) {
    const canary = found.get(worker as string) ?? { at: 0, failures: 0, distrusted: false };
    if (name === "hlt_canary_timestamp_seconds") canary.at = Number(value);
    else if (name === "hlt_canary_failures_total") canary.failures = Number(value);
    else canary.distrusted = Number(value) > 0;
    found.set(worker as string, canary);
  }
  return found;
}
