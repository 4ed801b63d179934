// The page: bar, banner, views by the address (`#/name/argument`), keys.
import "./styles/fonts.css";
import "uplot/dist/uPlot.min.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/views.css";
import "./styles/events.css";
import { Api } from "./api";
import { askToken, showKeys } from "./dialog";
import { attribute, button, h, say, show, svg } from "./dom";
import { Farm } from "./farm";
import { ago, stateWords } from "./format";
import * as notices from "./notices";
import * as themes from "./theme";
import { tone } from "./tones";
import { Events } from "./views/events";
import { Menu } from "./views/menu";
import { Overview } from "./views/overview";
import { Audits, Errors, Runs } from "./views/records";
import type { View } from "./views/view";
import { Workers } from "./views/workers";

class Page {
  private readonly api = new Api();
  private readonly farm = new Farm(this.api);
  private readonly views: [name: string, title: string, make: () => View][] = [
    ["overview", "Overview", () => new Overview(this.farm)],
    ["events", "Events", () => new Events(this.farm)],
    ["menu", "Menu", () => new Menu(this.farm)],
    ["workers", "Workers", () => new Workers(this.farm)],
    ["errors", "Errors", () => new Errors(this.farm)],
    ["runs", "Runs", () => new Runs(this.farm)],
    ["audit", "Audit", () => new Audits(this.farm)],
  ];
  private readonly made = new Map<string, View>();
  private current: View | null = null;
  private readonly links = new Map<string, HTMLAnchorElement>();
  private readonly errors = h("span", { class: "nav-count", hidden: true });
  private readonly state = h("a", { class: "pill", href: "#/overview" }, h("i", { class: "dot small" }), h("span"));
  private readonly who = button("", "quiet who", () => void this.signIn("Give another token, or cancel to keep the present one."));
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly main = h("main", { tabindex: -1 });
  private asking = false;

  start(): void {
    themes.install();
    const nav = h("nav", { "aria-label": "Views" });
    for (const [name, title] of this.views) {
      const link = h("a", { href: `#/${name}` }, title, name === "errors" && this.errors);
      this.links.set(name, link);
      nav.append(link);
    }
    const skip = h("a", { class: "skip", href: "#", onclick: (event) => { event.preventDefault(); this.main.focus(); } }, "Skip to the content");
    const tools = h("div", { class: "tools" }, this.state, this.who, icon("Dark or light (t)", SUN, () => themes.switchTheme()), icon("Keys (?)", QUESTION, () => showKeys()));
    document.body.append(skip, h("header", { class: "topbar" }, h("a", { class: "brand", href: "#/overview", "aria-label": "hltfarm, overview" }, logo(), "hltfarm"), nav, tools), this.banner, this.main);
    notices.install();
    this.api.unauthorized = () => void this.signIn("Commands and numbers need the token of a viewer, an operator or an admin.");
    this.farm.listen(() => this.update());
    setInterval(() => this.update(), 1000);
    addEventListener("hashchange", () => this.route());
    addEventListener("keydown", (event) => this.key(event));
    this.farm.start();
    this.route();
  }

  private route(): void {
    const [, name = "", argument] = location.hash.split("/");
    const known = this.views.find(([view]) => view === name) ?? this.views[0];
    if (known === undefined) return;
    const [view, title, make] = known;
    let next = this.made.get(view);
    if (next === undefined) this.made.set(view, (next = make()));
    if (next !== this.current) {
      this.current?.close();
      this.main.replaceChildren(next.element);
      this.main.scrollTop = 0;
      this.current = next;
    }
    next.open(argument === undefined || argument === "" ? null : decodeURIComponent(argument));
    for (const [other, link] of this.links) attribute(link, "aria-current", other === view ? "page" : null);
    document.title = `${title} · hltfarm`;
  }

  private update(): void {
    const { farm } = this;
    const { status, contact } = farm;
    const state = farm.away ? "Unknown" : (status?.state ?? "Unknown");
    (this.state.firstElementChild as HTMLElement).className = `dot small tone-${status === null && !farm.away ? "idle" : tone(state)}`;
    say(this.state.lastElementChild as HTMLElement, farm.away ? "No answer" : status === null ? "Connecting" : stateWords(status.state));
    show(this.banner, farm.away);
    if (farm.away) {
      const since = contact.answeredAt === null ? "" : ` since ${new Date(contact.answeredAt).toLocaleTimeString("en-GB")} (${ago((Date.now() - contact.answeredAt) / 1000)})`;
      say(this.banner, `No answer${since}: ${farm.fault ?? "the farm is away"}. What is shown is old; asking again.`);
    }
    const failed = status?.ledger?.error ?? 0;
    show(this.errors, failed > 0);
    say(this.errors, failed > 999 ? "999+" : `${failed}`);
    const { access } = farm;
    show(this.who, access !== null && access.tokens);
    if (access !== null) say(this.who, `${access.who}, ${access.role}`);
  }

  private async signIn(why: string): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    try {
      const token = await askToken(why);
      if (token !== null && !/^[!-~]+$/.test(token)) {
        // no browser sends it, and it would stay in this tab: every question would fail before it is asked
        notices.notice("That is no token: it has letters or blanks that tokens never have. Copy it again.", "bad");
      } else if (token !== null) {
        this.api.token = token;
        this.farm.again();
        this.route();
      }
    } finally {
      // one that is not known is asked for again by the next answer, but not while somebody has just said no
      setTimeout(() => (this.asking = false), 1500);
    }
  }

  private key(event: KeyboardEvent): void {
    const { target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") !== null) return;
    if (target instanceof HTMLInputElement || target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement) return;
    const view = this.views[Number(event.key) - 1];
    if (view !== undefined) location.hash = `#/${view[0]}`;
    else if (event.key === "t") themes.switchTheme();
    else if (event.key === "?") showKeys();
    else if (!(this.current instanceof Events && this.current.key(event.key))) return;
    event.preventDefault();
  }
}

const SUN = "M12 3v2M12 19v2M4.2 4.2l1.5 1.5M18.3 18.3l1.5 1.5M3 12h2M19 12h2M4.2 19.8l1.5-1.5M18.3 5.7l1.5-1.5M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8";
const QUESTION = "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.01";

function icon(label: string, path: string, act: () => void): HTMLElement {
  const shape = svg("svg", { viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true", class: "icon" }, svg("path", { d: path }));
  return h("button", { type: "button", class: "button quiet", title: label, "aria-label": label, onclick: () => act() }, shape as unknown as Node);
}

function logo(): SVGElement {
  return svg("svg", { viewBox: "0 0 32 32", width: 26, height: 26, "aria-hidden": "true", class: "logo" },
    ...[5, 9, 13].map((r) => svg("circle", { cx: 16, cy: 16, r, class: "ring" })),
    ...["M16 16Q22 12 24 4", "M16 16Q20 21 29 22", "M16 16Q10 17 5 25"].map((d, i) => svg("path", { d, class: `way way-${i + 1}` })));
}

new Page().start();
