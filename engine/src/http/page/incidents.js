// What is wrong, and what people do about it.

import { list, post } from "./api.js";
import { closable, el, keep, open, place, plural, put, recall, sign, span, stamp } from "./format.js";

const RULES = {
  range: "impossible value", silence: "silence", stuck: "stuck value", rate: "jump", noise: "restless",
  season: "unlike this time of day", level: "new level", z: "far from its baseline", forest: "unlike its group",
  novelty: "new at this time of day",
};
/** Sensors of an incident that are named one by one. */
const NAMED = 6;

export class Incidents {
  open = [];
  total = 0;
  /** `told(text, urgent)` for who cannot see; `changed()` for everybody else. */
  #told;
  #changed;
  #now;
  #known = null;
  #items = new Map();
  #section = document.getElementById("incidents");
  #list = document.getElementById("open");
  #more = document.getElementById("more");
  #you = document.getElementById("you");
  #dialog = document.getElementById("ask");
  #answer = null;

  constructor(now, told, changed) {
    this.#now = now;
    this.#told = told;
    this.#changed = changed;
    this.#you.value = recall("you") ?? "";
    this.#you.addEventListener("change", () => keep("you", this.#you.value.trim()));
    closable(this.#dialog, () => {
      const answer = this.#answer;
      this.#answer = null;
      if (answer && this.#dialog.returnValue === "yes") answer();
    });
    setInterval(() => this.#second(), 1000);
  }

  /** The whole of what is open, newest first. */
  take({ open, total }) {
    this.open = open;
    this.total = total;
    const ids = new Set(open.map((one) => one.id));
    if (this.#known) {
      const fresh = open.filter((one) => !this.#known.has(one.id));
      for (const one of fresh.slice(0, 3)) {
        this.#told(`New incident, ${one.severity === "critical" ? "critical" : "a warning"}: ${about(one)}: ${one.text}`, one.severity === "critical");
      }
      if (fresh.length > 3) this.#told(`${fresh.length} new incidents`, true);
      for (const id of this.#known) {
        if (ids.has(id)) continue;
        this.#told(`Over: incident ${id}`, false);
        document.dispatchEvent(new Event("incident-over"));
      }
    }
    this.#known = ids;
    this.#draw();
    this.#changed();
  }

  /** Those that need somebody first, the worst first. */
  sorted() {
    const weight = (one) => (one.acknowledged ? 2 : 0) + (one.severity === "critical" ? 0 : 1);
    return [...this.open].sort((a, b) => weight(a) - weight(b) || b.opened - a.opened);
  }

  #draw() {
    const sorted = this.sorted();
    this.#section.hidden = sorted.length === 0;
    const focus = document.activeElement;
    const wanted = new Set(sorted.map((one) => one.id));
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      item.root.remove();
      this.#items.delete(id);
    }
    sorted.forEach((one, at) => {
      let item = this.#items.get(one.id);
      if (!item) {
        item = this.#make(one);
        this.#items.set(one.id, item);
      }
      item.fill(one);
      if (this.#list.children[at] !== item.root) this.#list.insertBefore(item.root, this.#list.children[at] ?? null);
    });
    // Moving an element takes its focus.
    if (focus?.isConnected && focus !== document.activeElement && this.#list.contains(focus)) focus.focus();
    const hidden = this.total - sorted.length;
    this.#more.hidden = hidden <= 0;
    put(this.#more, `and ${plural(hidden, "older one", "older ones")}`);
    put(document.getElementById("incidents-title"), sorted.every((one) => one.acknowledged) && sorted.length
      ? "Looked after" : "Needs somebody");
  }

  #second() {
    for (const { tick } of this.#items.values()) tick();
  }

  #make(first) {
    const icon = sign("anomaly");
    const severity = el("span", { className: "severity" });
    const who = el("span", { className: "who" });
    const text = el("p", { className: "text" });
    const meta = el("p", { className: "meta" });
    const age = el("span");
    const care = el("p", { className: "care" });
    const ack = el("button", { type: "button", className: "main" }, "I look after it");
    const wrong = el("button", { type: "button" }, "False alarm …");
    const quiet = el("button", { type: "button" }, "Silence …");
    const error = el("p", { className: "error", role: "alert" });
    const actions = el("p", { className: "actions" }, ack, wrong, quiet);
    const root = el("li", { className: "incident" },
      el("div", { className: "head" }, icon, severity, who),
      text, meta, care, actions, error);
    root.dataset.id = first.id;
    let one = first;
    const send = async (answer, body) => {
      for (const button of [ack, wrong, quiet]) button.disabled = true;
      put(error, "");
      try {
        const by = this.#you.value.trim() || "somebody at the page";
        const now = await post(`incidents/${encodeURIComponent(one.id)}/${answer}`, { by, ...body });
        const open = now.resolved
          ? this.open.filter((other) => other.id !== now.id)
          : this.open.map((other) => (other.id === now.id ? now : other));
        this.take({ open, total: this.total - (this.open.length - open.length) });
        this.#told(answer === "ack" ? `Noted: ${by} looks after ${about(now)}`
          : answer === "silence" ? `Noted: no notices about ${about(now)} for ${body.for}` : `Noted: a false alarm, ${about(now)}`, false);
      } catch (failure) {
        put(error, failure.message);
      } finally {
        for (const button of [ack, wrong, quiet]) button.disabled = false;
      }
    };
    ack.addEventListener("click", () => send("ack", {}));
    wrong.addEventListener("click", () => this.#ask(
      "A false alarm?", `Nothing was wrong with ${about(one)}? The incident ends, and the line of its rule becomes higher for this sensor.`,
      "It was a false alarm", false, () => send("false-alarm", {})));
    quiet.addEventListener("click", () => this.#ask(
      "Silence", `No notices about ${one.group ? `the group ${one.group}` : about(one)}. What happens is stored and shown all the same.`,
      "Silence", true, (lasts) => send("silence", { for: lasts })));
    let shown = "";
    const tick = () => put(age, span(this.#now() - one.opened));
    const fill = (next) => {
      one = next;
      const now = JSON.stringify(next);
      if (now === shown) return;
      shown = now;
      root.dataset.severity = one.severity;
      root.dataset.care = one.acknowledged ? "yes" : "";
      icon.firstChild.setAttribute("href", one.acknowledged ? "#i-care" : one.rule === "silence" ? "#i-silent" : "#i-anomaly");
      put(severity, one.severity === "critical" ? "critical" : "warning");
      who.replaceChildren(...names(one));
      put(text, one.text);
      tick();
      const also = one.also.filter((other) => other !== one.text);
      meta.replaceChildren(
        "for ", age, ", since ", stamp(one.opened), " · ", RULES[one.rule] ?? one.rule,
        one.anomalies > 1 ? ` · ${plural(one.anomalies, "anomaly", "anomalies")}` : "",
        one.relapses ? ` · came back ${plural(one.relapses, "time", "times")}` : "",
        ...(also.length ? [el("br"), `also: ${also.join("; ")}`] : []));
      care.hidden = !one.acknowledged;
      if (one.acknowledged) care.replaceChildren(`${one.acknowledged.by} looks after it since `, stamp(one.acknowledged.at));
      ack.hidden = Boolean(one.acknowledged);
    };
    return { root, fill, tick };
  }

  #ask(title, text, yes, spans, answer) {
    put(document.getElementById("ask-title"), title);
    put(document.getElementById("ask-text"), text);
    put(document.getElementById("ask-yes"), yes);
    document.getElementById("ask-spans").hidden = !spans;
    this.#dialog.returnValue = "";
    this.#answer = () => answer(this.#dialog.querySelector("input[name=for]:checked").value);
    open(this.#dialog);
  }

  /** Those that are over, for a dialog. */
  static async past(now) {
    const past = await list("incidents", "incidents", { from: now - 7 * 86_400_000 });
    return past.filter((one) => one.resolved).reverse();
  }
}

/** Whom an incident is about, in words. */
export function about(one) {
  const others = one.sensors.length - 1;
  if (one.kind === "link") return "the link to the broker";
  if (one.sensor && others > 0) return `${one.sensor} and ${plural(others, "more", "more")}`;
  return one.sensor ?? one.group ?? "the engine";
}

/** The same as links. */
function names(one) {
  const ids = one.sensors.length ? one.sensors : one.sensor ? [one.sensor] : [];
  if (ids.length === 0) return [about(one)];
  const nodes = [];
  for (const id of ids.slice(0, NAMED)) {
    if (nodes.length) nodes.push(", ");
    nodes.push(el("a", { href: place(id) }, id));
  }
  if (ids.length > NAMED) nodes.push(` and ${plural(ids.length - NAMED, "more", "more")}`);
  if (one.group) nodes.push(el("span", { className: "group" }, one.group));
  return nodes;
}

/** Incidents that are over, as a list. */
export function pastList(past) {
  if (past.length === 0) return el("p", {}, "There was none in the last 7 days.");
  const items = past.map((one) => el("li", { className: "past" },
    el("p", {}, el("strong", {}, ...names(one)), " ", el("span", { className: "severity" }, one.severity === "critical" ? "critical" : "warning")),
    el("p", {}, one.text),
    el("p", { className: "meta" }, stamp(one.opened), " to ", stamp(one.resolved), ` (${span(one.resolved - one.opened)})`,
      one.false_alarm ? ` · a false alarm, says ${one.false_alarm.by}` : one.acknowledged ? ` · ${one.acknowledged.by} looked after it` : "")));
  return el("ol", { className: "list" }, ...items);
}
