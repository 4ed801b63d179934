// The HTTP interface: JSON in and out, errors as application/problem+json, the token of this tab.

/** The farm answered, and said no. `legal`: commands that its state allows. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    detail: string,
    readonly legal: string[] | null = null,
    readonly retryable = false,
  ) {
    super(detail);
    this.name = "Refused";
  }
}

/** Nobody answered. */
export class NoAnswer extends Error {
  override name = "NoAnswer";
}

const TOKEN = "hltfarm.token";
const TIMEOUT_MS = 8_000;

export class Api {
  /** Called when the farm wants a token, or another one. */
  unauthorized: () => void = () => undefined;

  get token(): string | null {
    return sessionStorage.getItem(TOKEN);
  }

  set token(value: string | null) {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, value);
  }

  get<T>(path: string, timeoutMs = TIMEOUT_MS): Promise<T> {
    return this.json<T>("GET", path, undefined, timeoutMs);
  }

  post<T>(path: string, body?: unknown): Promise<T> {
    return this.json<T>("POST", path, body, 30_000);
  }

  /** A file, to be saved by the browser. */
  async blob(path: string): Promise<Blob> {
    return (await this.send("GET", path, undefined, 30_000)).blob();
  }

  private async json<T>(method: string, path: string, body: unknown, timeoutMs: number): Promise<T> {
    const answer = await this.send(method, path, body, timeoutMs);
    try {
      return (await answer.json()) as T;
    } catch (error) {
      throw new NoAnswer(error instanceof SyntaxError ? `the answer of ${path} is no JSON` : "the answer was cut off");
    }
  }

  private async send(method: string, path: string, body: unknown, timeoutMs: number): Promise<Response> {
    const headers: Record<string, string> = { Accept: "application/json" };
    if (this.token !== null) headers["Authorization"] = `Bearer ${this.token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer: Response;
    try {
      answer = await fetch(new URL(path, document.baseURI), {
        method,
        headers,
        body: body === undefined ? null : JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.timeout(timeoutMs),
      });
    } catch (error) {
      throw new NoAnswer(error instanceof DOMException && error.name === "TimeoutError" ? `no answer within ${timeoutMs / 1000} s` : "no connection");
    }
    if (answer.ok) return answer;
    throw await this.refusal(answer);
  }

  private async refusal(answer: Response): Promise<Error> {
    let detail = `${answer.status} ${answer.statusText}`;
    let legal: string[] | null = null;
    let retryable = false;
    try {
      const problem = (await answer.json()) as { detail?: string; legal?: string[]; retryable?: boolean };
      detail = problem.detail ?? detail;
      legal = problem.legal ?? null;
      retryable = problem.retryable ?? false;
    } catch {
      // a proxy between says it in words of its own; the status has to do
    }
    if (answer.status === 401) this.unauthorized();
    return new Refused(answer.status, detail, legal, retryable);
  }
}

/** What went wrong, in words for people. */
export function words(error: unknown): string {
  if (error instanceof Refused && error.status === 403) return `Not allowed: ${error.message}`;
  return error instanceof Error ? error.message : String(error);
}
