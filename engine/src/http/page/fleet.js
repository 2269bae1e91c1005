// The sensors: what is known of each, and the cards. Only the cards that can be seen exist.

import { get, list } from "./api.js";
import { ago, el, fixed, path, picture, place, places, plural, put, sign, whole } from "./format.js";

/** What only the list of sensors has. */
const SLOW = ["group", "learning", "silent_after_s", "expected_interval_s", "readings", "missing", "device"];
/** From the worst on. */
export const STATES = ["anomaly", "silent", "learning", "ok"];
export const WORDS = { anomaly: "anomaly", silent: "silent", learning: "learning", ok: "as usual" };

/** In rem, as in the style. */
const CARD = { width: 16.8, height: 8.5, gap: 0.75, head: 2.5, widest: 27 };
/** Points of a trend. */
const POINTS = 72;
/** Trends in one question; the engine allows 100. */
const BATCH = 60;
/** So long after the last move the cards are put in order in the document, too. */
const SETTLED_MS = 150;
/** Rows above and below what can be seen. */
const SPARE = 2;

export class Fleet {
  sensors = new Map();
  quantities = [];
  /** Difference between the engine's clock and this one. */
  skew = 0;
  /** False: the newest reading is the present. */
  live = true;
  /** Ids that an open incident is about: id → incident. */
  concerned = new Map();

  #isKnown;
  /** Fulfilled when the sensors are known. */
  known = new Promise((resolve) => { this.#isKnown = resolve; });

  #grid = document.getElementById("grid");
  #none = document.getElementById("none");
  #rows = [];
  #height = 0;
  #columns = 1;
  #size = CARD;
  #shown = 0;
  #settling = 0;
  #cards = new Map();
  #spare = [];
  #heads = new Map();
  #wanted = false;
  #dirty = new Set();
  #arrange = true;
  #filter = { text: "", state: "", by: "", span: 21_600_000 };
  #trends = new Set();
  #asking = false;
  #reload = 0;
  #moved;

  /** `moved()`: who is in which state has changed. */
  constructor(moved) {
    this.#moved = moved;
    const again = () => this.#want();
    addEventListener("scroll", again, { passive: true });
    new ResizeObserver(() => { this.#arrange = true; again(); }).observe(this.#grid);
    this.#grid.addEventListener("keydown", (event) => this.#keys(event));
    setInterval(() => this.#second(), 1000);
  }

  now() {
    if (this.live) return Date.now() + this.skew;
    let newest = 0;
    for (const sensor of this.sensors.values()) newest = Math.max(newest, sensor.last_seen ?? 0);
    return newest;
  }

  /** Everything anew. */
  async load() {
    const [{ quantities }, sensors] = await Promise.all([get("quantities"), list("sensors", "sensors")]);
    this.quantities = quantities;
    this.take(sensors);
    this.#isKnown();
  }

  /** News of some sensors, in the shape of the list. */
  take(news) {
    let strangers = false;
    for (const one of news) {
      const known = this.sensors.get(one.id);
      if (!known) {
        strangers ||= one.silent_after_s === undefined;
        const trend = null;
        const sensor = { learning: true, ...one, trend, names: [], state: "" };
        sensor.find = `${one.id} ${one.group ?? ""}`.toLowerCase();
        this.sensors.set(one.id, sensor);
        this.#name(sensor);
        this.#judge(sensor);
        this.#arrange = true;
      } else {
        if (one.last_seen >= known.last_seen) {
          Object.assign(known, one);
          this.#name(known);
          this.#extend(known);
        } else {
          // The list may be older than what was told since, but knows more.
          for (const name of SLOW) if (one[name] !== undefined) known[name] = one[name];
        }
        known.find = `${known.id} ${known.group ?? ""}`.toLowerCase();
        this.#judge(known);
      }
      this.#dirty.add(one.id);
    }
    // The list knows more of a new sensor than its first reading does.
    if (strangers && !this.#reload) {
      this.#reload = setTimeout(() => { this.#reload = 0; this.load().catch(() => {}); }, 1500);
    }
    this.#want();
  }

  /** The open incidents have changed. */
  concern(incidents) {
    const before = this.concerned;
    this.concerned = new Map();
    for (const incident of [...incidents].reverse()) {
      for (const id of new Set([incident.sensor, ...incident.sensors])) {
        if (id) this.concerned.set(id, incident);
      }
    }
    for (const id of new Set([...before.keys(), ...this.concerned.keys()])) {
      const sensor = this.sensors.get(id);
      if (sensor) { this.#judge(sensor); this.#dirty.add(id); }
    }
    this.#want();
  }

  show(change) {
    const span = this.#filter.span;
    Object.assign(this.#filter, change);
    if (span !== this.#filter.span) {
      for (const sensor of this.sensors.values()) sensor.trend = null;
      for (const id of this.#cards.keys()) this.#dirty.add(id);
    }
    this.#arrange = true;
    this.#want();
  }

  counts() {
    const counts = { anomaly: 0, silent: 0, learning: 0, ok: 0 };
    for (const sensor of this.sensors.values()) counts[sensor.state] += 1;
    return counts;
  }

  #name(sensor) {
    const known = this.quantities.filter((q) => typeof sensor[q.name] === "number");
    if (known.length !== sensor.names.length) sensor.names = known;
  }

  #judge(sensor) {
    const incident = this.concerned.get(sensor.id);
    const silent = this.live && sensor.silent_after_s
      && this.now() - sensor.last_seen > sensor.silent_after_s * 1000 + 1000;
    const state = incident && incident.rule !== "silence" ? "anomaly"
      : incident || silent ? "silent"
      : sensor.anomaly ? "anomaly"
      : sensor.learning ? "learning" : "ok";
    if (state === sensor.state) return;
    sensor.state = state;
    this.#arrange = true;
    this.#dirty.add(sensor.id);
  }

  #second() {
    for (const sensor of this.sensors.values()) this.#judge(sensor);
    for (const id of this.#cards.keys()) this.#dirty.add(id);
    this.#want();
  }

  // ---- Trends ----

  #extend(sensor) {
    if (!sensor.trend) return;
    const { t, columns, step } = sensor.trend;
    const time = sensor.last_seen;
    const replace = t.length > 1 && time - t[t.length - 2] < step;
    if (replace) t[t.length - 1] = time;
    else t.push(time);
    for (const q of sensor.names) {
      const column = columns[q.name] ??= new Array(t.length - 1).fill(null);
      if (replace) column[t.length - 1] = sensor[q.name];
      else column.push(sensor[q.name]);
    }
    while (t.length > 2 && t[1] < time - this.#filter.span) {
      t.shift();
      for (const column of Object.values(columns)) column.shift();
    }
  }

  async #ask() {
    if (this.#asking || this.#trends.size === 0) return;
    this.#asking = true;
    const ids = [...this.#trends].slice(0, BATCH);
    const { span } = this.#filter;
    const to = this.now() + 1;
    try {
      const { trends } = await get("trends", { sensors: ids.join(","), from: to - span, to, points: POINTS });
      for (const id of ids) {
        const sensor = this.sensors.get(id);
        if (!sensor || span !== this.#filter.span) continue;
        const { t, ...columns } = trends[id] ?? { t: [] };
        sensor.trend = { t, columns, step: span / POINTS };
        this.#extend(sensor);
        this.#dirty.add(id);
      }
    } catch {
      // Asked again when the card is drawn again.
    } finally {
      for (const id of ids) this.#trends.delete(id);
      this.#asking = false;
      this.#want();
    }
  }

  // ---- The grid ----

  #want() {
    if (this.#wanted) return;
    this.#wanted = true;
    requestAnimationFrame(() => { this.#wanted = false; this.#draw(); });
  }

  #chosen() {
    const words = this.#filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [];
    for (const sensor of this.sensors.values()) {
      if (this.#filter.state && sensor.state !== this.#filter.state) continue;
      if (words.every((word) => sensor.find.includes(word))) chosen.push(sensor);
    }
    const rank = new Map(STATES.map((state, at) => [state, at]));
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    // What needs somebody first; the others keep their places.
    const weight = (sensor) => Math.min(rank.get(sensor.state), 2);
    return chosen.sort((a, b) => weight(a) - weight(b) || compare(a.id, b.id));
  }

  #lay() {
    const chosen = this.#chosen();
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.#size = Object.fromEntries(Object.entries(CARD).map(([name, size]) => [name, size * rem]));
    const fit = (width) => Math.max(1, Math.floor((this.#grid.clientWidth + this.#size.gap) / (width + this.#size.gap)));
    // Few sensors share the room.
    this.#columns = Math.max(Math.min(fit(this.#size.width), chosen.length), fit(this.#size.widest));
    const by = this.#filter.by;
    const parts = new Map();
    if (by) {
      for (const sensor of chosen) {
        const name = by === "group" ? sensor.group ?? "" : sensor.state;
        if (!parts.has(name)) parts.set(name, []);
        parts.get(name).push(sensor);
      }
    } else {
      parts.set(null, chosen);
    }
    const names = [...parts.keys()];
    if (by === "group") names.sort((a, b) => (a === "") - (b === "") || a.localeCompare(b));
    if (by === "state") names.sort((a, b) => STATES.indexOf(a) - STATES.indexOf(b));
    this.#rows = [];
    let top = 0;
    let number = 0;
    for (const name of names) {
      const members = parts.get(name);
      if (name !== null) {
        const text = by === "state" ? WORDS[name] : name || "in no group";
        this.#rows.push({ top, height: this.#size.head, name: text, count: members.length });
        top += this.#size.head;
      }
      for (let at = 0; at < members.length; at += this.#columns) {
        const ids = members.slice(at, at + this.#columns).map((sensor) => sensor.id);
        this.#rows.push({ top, height: this.#size.height + this.#size.gap, ids, number });
        number += ids.length;
        top += this.#size.height + this.#size.gap;
      }
    }
    this.#height = top;
    this.#grid.style.height = `${top}px`;
    const some = chosen.length > 0;
    this.#none.hidden = some;
    put(this.#none, this.sensors.size ? "No sensor fits." : "No sensor has sent anything yet.");
    this.#grid.dataset.shown = chosen.length;
    return chosen.length;
  }

  #first(y) {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#rows[middle].top + this.#rows[middle].height < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #draw() {
    if (this.#arrange) {
      this.#arrange = false;
      this.#shown = this.#lay();
      this.#moved();
    }
    const box = this.#grid.getBoundingClientRect();
    const spare = SPARE * (this.#size.height + this.#size.gap);
    const from = this.#first(-box.top - spare);
    const to = -box.top + innerHeight + spare;
    const width = (this.#grid.clientWidth - this.#size.gap * (this.#columns - 1)) / this.#columns;
    const cards = new Map();
    const heads = new Set();
    for (let at = from; at < this.#rows.length && this.#rows[at].top <= to; at += 1) {
      const row = this.#rows[at];
      if (row.ids) {
        row.ids.forEach((id, column) => cards.set(id, {
          x: column * (width + this.#size.gap), y: row.top, number: row.number + column,
        }));
      } else {
        heads.add(row);
      }
    }
    // Who has the focus keeps its card, wherever it is.
    const focused = document.activeElement?.closest?.(".card")?.dataset.id;
    for (const [id, card] of this.#cards) {
      if (cards.has(id) || (id === focused && this.sensors.has(id))) continue;
      this.#cards.delete(id);
      this.#spare.push(card);
    }
    for (const [id, spot] of cards) {
      let card = this.#cards.get(id);
      if (!card) {
        // One that is not needed any more stays where it is in the document: moving it costs more.
        card = this.#spare.pop() ?? make();
        this.#cards.set(id, card);
        card.shown = {};
        if (!card.root.isConnected) this.#grid.append(card.root);
        this.#dirty.add(id);
      }
      if (card.x !== spot.x || card.y !== spot.y || card.width !== width) {
        Object.assign(card, spot, { width });
        card.root.style.transform = `translate(${spot.x}px, ${spot.y}px)`;
        card.root.style.width = `${width}px`;
      }
      card.root.setAttribute("aria-posinset", spot.number + 1);
      card.root.setAttribute("aria-setsize", this.#shown);
    }
    for (const { root } of this.#spare) root.remove();
    this.#titles(heads);
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#order(), SETTLED_MS);
    const now = this.now();
    for (const id of this.#dirty) {
      const card = this.#cards.get(id);
      if (card) this.#fill(card, this.sensors.get(id), now);
    }
    this.#dirty.clear();
    this.#ask();
  }


  /** What reads or tabs through the grid finds the cards as they lie. */
  #order() {
    let next = this.#grid.firstChild;
    for (const row of this.#rows) {
      const roots = row.ids ? row.ids.map((id) => this.#cards.get(id)?.root) : [this.#heads.get(keyOf(row))];
      for (const root of roots) {
        if (!root) continue;
        if (root === next) {
          next = next.nextSibling;
          continue;
        }
        const focus = root.contains(document.activeElement) ? document.activeElement : null;
        this.#grid.insertBefore(root, next);
        focus?.focus({ preventScroll: true });
      }
    }
  }

  #titles(rows) {
    for (const [key, head] of this.#heads) {
      if (![...rows].some((row) => keyOf(row) === key)) {
        head.remove();
        this.#heads.delete(key);
      }
    }
    for (const row of rows) {
      const key = keyOf(row);
      if (this.#heads.has(key)) continue;
      const title = el("h3", {}, row.name, " ", el("span", {}, whole(row.count)));
      const head = el("div", { className: "part", role: "listitem" }, title);
      head.style.transform = `translateY(${row.top}px)`;
      this.#heads.set(key, head);
      this.#grid.append(head);
    }
  }

  #fill(card, sensor, now) {
    const { shown } = card;
    if (shown.id !== sensor.id) {
      shown.id = sensor.id;
      card.link.href = place(sensor.id);
      card.link.dataset.id = sensor.id;
      put(card.name, sensor.id);
    }
    const incident = this.concerned.get(sensor.id);
    const state = sensor.state;
    const care = incident?.acknowledged ? "care" : "";
    const word = wording(sensor, now);
    if (shown.state !== state || shown.care !== care || shown.word !== word) {
      Object.assign(shown, { state, care, word });
      card.link.dataset.state = state;
      card.link.dataset.care = care;
      card.use.setAttribute("href", `#i-${state}`);
      put(card.word, care ? `${word}, looked after` : word);
    }
    put(card.seen, sensor.last_seen ? ago(now - sensor.last_seen) : "never");
    const rest = sensor.names.length - card.parts.length;
    put(card.rest, rest > 0 ? `and ${plural(rest, "more", "more")}` : "");
    card.parts.forEach((part, at) => {
      const q = sensor.names[at];
      part.root.hidden = !q;
      if (!q) return;
      put(part.name, q.name);
      put(part.value, fixed(sensor[q.name], places(q)));
      put(part.unit, q.unit);
      const odd = Math.abs(sensor.z?.[q.name] ?? 0) > 4 && state === "anomaly";
      part.root.classList.toggle("odd", odd);
      this.#sketch(part, sensor, q, now);
    });
    if (!sensor.trend) this.#trends.add(sensor.id);
  }

  #sketch(part, sensor, q, now) {
    const column = sensor.trend?.columns[q.name];
    const d = column ? course(sensor, column, q, now, this.#filter.span) : { line: "", dot: "" };
    if (part.drawn !== d.line) {
      part.drawn = d.line;
      part.line.setAttribute("d", d.line);
      part.dot.setAttribute("d", d.dot);
    }
  }

  #keys(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.#columns, ArrowUp: -this.#columns }[event.key];
    const here = event.target.closest?.(".card")?.dataset.id;
    if (!step || !here) return;
    event.preventDefault();
    const ids = this.#rows.flatMap((row) => row.ids ?? []);
    const at = Math.min(ids.length - 1, Math.max(0, ids.indexOf(here) + step));
    this.reveal(ids[at]);
  }

  /** Brings the card of a sensor into view and gives it the focus. */
  reveal(id) {
    const row = this.#rows.find((one) => one.ids?.includes(id));
    if (!row) return;
    const top = this.#grid.getBoundingClientRect().top + row.top;
    const margin = 80;
    if (top < margin) scrollBy({ top: top - margin });
    else if (top + row.height > innerHeight - margin / 2) scrollBy({ top: top + row.height - innerHeight + margin / 2 });
    this.#draw();
    this.#cards.get(id)?.link.focus({ preventScroll: true });
  }
}

const keyOf = (row) => `${row.name} ${row.top} ${row.count}`;

/** The state in words: an incident lasts for a while after its sensor has come back. */
export function wording(sensor, now) {
  const back = sensor.state === "silent" && sensor.silent_after_s
    && now - sensor.last_seen <= sensor.silent_after_s * 1000;
  return back ? "was silent, is back" : WORDS[sensor.state];
}

function make() {
  const part = () => {
    const name = el("span", { className: "unseen" });
    const value = el("span", { className: "value" });
    const unit = el("span", { className: "unit" });
    const svg = picture();
    const line = path("course");
    const dot = path("dot");
    svg.append(line, dot);
    const root = el("span", { className: "part-of" }, name, el("span", { className: "number" }, value, " ", unit), svg);
    return { root, name, value, unit, line, dot };
  };
  const parts = [part(), part()];
  const icon = sign("ok");
  const name = el("strong");
  const word = el("span", { className: "word" });
  const seen = el("span", { className: "seen" });
  const rest = el("span", { className: "rest" });
  const link = el("a", { className: "card" },
    el("span", { className: "head" }, icon, name, seen),
    el("span", { className: "body" }, ...parts.map((one) => one.root)),
    el("span", { className: "foot" }, word, rest));
  const root = el("div", { className: "cell", role: "listitem" }, link);
  return { root, link, use: icon.firstChild, name, word, seen, rest, parts, shown: {} };
}

/** The path of a trend in a picture of 100 × 30. */
function course(sensor, column, q, now, span) {
  const { t, step } = sensor.trend;
  let low = Infinity;
  let high = -Infinity;
  for (const value of column) {
    if (value == null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low === Infinity) return { line: "", dot: "" };
  // A little noise is no mountain range.
  const least = (q.max - q.min) / 80;
  if (high - low < least) {
    const middle = (high + low) / 2;
    low = middle - least / 2;
    high = middle + least / 2;
  }
  const gap = Math.max(3 * step, (sensor.silent_after_s ?? 0) * 1000);
  // Of who is younger than the span, the picture is as long as its life.
  const reach = Math.min(span, Math.max(now - t[0], span / 60));
  const x = (time) => (Math.max(0, 1 - (now - time) / reach) * 97).toFixed(1);
  const y = (value) => (27 - ((value - low) / (high - low)) * 24).toFixed(1);
  let line = "";
  let last = -Infinity;
  let end = "";
  for (let at = 0; at < t.length; at += 1) {
    const value = column[at];
    if (value == null) continue;
    end = `${x(t[at])} ${y(value)}`;
    line += `${t[at] - last > gap ? "M" : "L"}${end}`;
    last = t[at];
  }
  return { line, dot: `M${end}h0` };
}
