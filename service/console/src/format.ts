// Numbers for people. Every function is pure; thin spaces group digits, a minus is a minus.

const NARROW = "\u202f";
const SPACE = "\u00a0";
export const NOTHING = "–";

/** 1234567 -> "1 234 567". */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const digits = Math.abs(Math.round(value)).toString();
  const grouped = digits.length > 4 ? digits.replace(/\B(?=(\d{3})+$)/g, NARROW) : digits;
  return (Math.round(value) < 0 ? "−" : "") + grouped;
}

/** Three significant digits without an exponent: 0.0123, 1.23, 12.3, 123, 1 234. */
export function significant(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value === 0) return "0";
  const power = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(digits)))));
  if (power >= digits - 1) return count(value);
  return value.toFixed(Math.min(6, digits - 1 - power)).replace("-", "−");
}

const PREFIXES = ["", "k", "M", "G", "T"] as const;

/** With a prefix of a thousand each: 12345 -> "12.3 k". The unit follows directly. */
export function prefixed(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  let step = 0;
  let rest = value;
  while (Math.abs(Number(rest.toPrecision(3))) >= 1000 && step < PREFIXES.length - 1) {
    rest /= 1000;
    step += 1;
  }
  return `${significant(rest)}${SPACE}${PREFIXES[step] ?? ""}${unit}`;
}

export const rate = (hz: number | null | undefined): string => prefixed(hz, "Hz");
export const milliseconds = (ms: number | null | undefined): string =>
  ms !== null && ms !== undefined && ms >= 1000 ? `${significant(ms / 1000)}${SPACE}s` : ms === null || ms === undefined ? NOTHING : `${significant(ms)}${SPACE}ms`;

/** Binary prefixes, as memory is counted. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  let rest = value;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (rest < 1024) return `${unit === "B" ? count(rest) : significant(rest)}${SPACE}${unit}`;
    rest /= 1024;
  }
  return `${significant(rest)}${SPACE}TiB`;
}

export function percent(fraction: number | null | undefined): string {
  if (fraction === null || fraction === undefined || !Number.isFinite(fraction)) return NOTHING;
  return fraction >= 0.9995 && fraction < 1 ? `> 99.9${SPACE}%` : `${significant(100 * fraction)}${SPACE}%`;
}

/** 3725 -> "1:02:05", 65 -> "1:05"; days in front. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n: number): string => n.toString().padStart(2, "0");
  const days = Math.floor(whole / 86_400);
  const hours = Math.floor((whole % 86_400) / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const clock = hours > 0 || days > 0 ? `${days > 0 ? two(hours) : hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  return days > 0 ? `${days}${SPACE}d ${clock}` : clock;
}

/** How long ago: "now", "12 s ago", "5 min ago", "3 h ago", "2 d ago". */
export function ago(seconds: number): string {
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)}${SPACE}s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${SPACE}min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)}${SPACE}h ago`;
  return `${Math.round(seconds / 86_400)}${SPACE}d ago`;
}

/** Local time of day, with the date where it is another day than `now`. */
export function clock(iso: string | null, now: Date): string {
  if (iso === null) return NOTHING;
  const time = new Date(iso);
  const text = time.toLocaleTimeString("en-GB");
  if (time.toDateString() === now.toDateString()) return text;
  const two = (n: number): string => n.toString().padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${text}`;
}

/** Run control's states in words: RunningDegraded -> "Running, degraded". */
export const stateWords = (state: string): string => (state === "RunningDegraded" ? "Running, degraded" : state);

/** WORKER_FAILED -> "worker failed". */
export const plain = (code: string): string => code.toLowerCase().replaceAll("_", " ");
