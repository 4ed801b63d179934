// Which colour a word has. Pure.
export type Tone = "good" | "warn" | "bad" | "info" | "busy" | "idle";

const STATES: Record<string, Tone> = { Running: "good", RunningDegraded: "warn", Paused: "info", Configured: "info", Draining: "busy", Halted: "idle", Error: "bad", Unknown: "bad" };
export const tone = (state: string): Tone => STATES[state] ?? "idle";

const OUTCOMES: Record<string, Tone> = { done: "good", accepted: "good", refused: "warn", failed: "bad", stopped: "good", reset: "warn", interrupted: "warn", open: "info", running: "info" };
export const outcomeTone = (outcome: string): Tone => OUTCOMES[outcome] ?? "idle";
