// When to ask a farm again: every second while it answers, later and later while it does not. Pure; times in milliseconds.

export interface Contact {
  /** When the farm answered last; null if it never did. */
  readonly answeredAt: number | null;
  readonly failures: number;
}

export const UNKNOWN: Contact = { answeredAt: null, failures: 0 };
const LONGEST_MS = 10_000;

export const answered = (now: number): Contact => ({ answeredAt: now, failures: 0 });
export const failed = (contact: Contact): Contact => ({ ...contact, failures: contact.failures + 1 });

/** How long to wait before the next question: 1, 2, 4, 8, 10, 10, ... times what is normal. */
export function delay(contact: Contact, normalMs: number): number {
  if (contact.failures === 0) return normalMs;
  return Math.max(normalMs, Math.min(LONGEST_MS, 1000 * 2 ** Math.min(contact.failures - 1, 10)));
}

/** Whether to tell people that the farm is away: one question that fails may be a restart. */
export const away = (contact: Contact): boolean => contact.failures >= 2 || (contact.failures >= 1 && contact.answeredAt === null);
