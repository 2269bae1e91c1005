// One sensor: each quantity's course, what the engine expects, what was out of line and why.

import { get } from "./api.js";
import {
  PLACE, ago, closable, el, fixed, keep, open, places, plural, put, recall, span, stamp, ticks, when, whole,
} from "./format.js";
import { wording } from "./fleet.js";

const SPANS = [[900_000, "15 min"], [3_600_000, "1 h"], [21_600_000, "6 h"], [86_400_000, "24 h"], [604_800_000, "7 d"]];
/** So much of the span lies ahead: the engine knows what it expects. */
const AHEAD = 0.06;
const POINTS = 700;
const REFRESH_MS = 30_000;
/** Anomalies in words, newest first. */
const TOLD = 40;

export class SensorView {
  #fleet;
  #incidents;
  #dialog = document.getElementById("sensor");
  #charts = document.getElementById("charts");
  #spans = new Map();
  #id = null;
  #span = Number(recall("span")) || 21_600_000;
  #data = null;
  #plots = [];
  #timer = 0;
  #soon = 0;
  #asked = 0;
  #return = null;

  constructor(fleet, incidents) {
    this.#fleet = fleet;
    this.#incidents = incidents;
    if (!SPANS.some(([ms]) => ms === this.#span)) this.#span = 21_600_000;
    for (const [ms, name] of SPANS) {
      const button = el("button", { type: "button", className: "chip", ariaPressed: String(ms === this.#span) }, name);
      button.addEventListener("click", () => {
        this.#span = ms;
        keep("span", ms);
        for (const [other, chip] of this.#spans) chip.ariaPressed = String(other === ms);
        this.#load();
      });
      this.#spans.set(ms, button);
      document.getElementById("spans").append(button);
    }
    closable(this.#dialog, () => this.#closed());
    addEventListener("hashchange", () => this.follow());
    document.addEventListener("dressed", () => this.#draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#size()).observe(this.#charts);
    setInterval(() => this.#second(), 1000);
  }

  /** Shows what the address says. */
  follow() {
    const id = named(location.hash);
    if (!id) {
      if (this.#dialog.open) this.#dialog.close();
      return;
    }
    if (id === this.#id) return;
    this.#return = document.activeElement;
    this.#id = id;
    this.#data = null;
    this.#clear();
    put(document.getElementById("sensor-title"), id);
    put(document.getElementById("sensor-state"), "");
    document.getElementById("why").replaceChildren();
    this.#second();
    open(this.#dialog);
    document.getElementById("sensor-title").focus();
    this.#load();
  }

  #closed() {
    const id = this.#id;
    this.#id = null;
    this.#clear();
    clearTimeout(this.#timer);
    if (named(location.hash)) history.pushState(null, "", location.pathname + location.search);
    if (this.#return?.isConnected && this.#return !== document.body) this.#return.focus({ preventScroll: true });
    else if (id) this.#fleet.reveal(id);
  }

  #clear() {
    for (const { plot } of this.#plots) plot.destroy();
    this.#plots = [];
    this.#charts.replaceChildren();
  }

  async #load() {
    const id = this.#id;
    if (!id) return;
    clearTimeout(this.#timer);
    const asked = ++this.#asked;
    await this.#fleet.known;
    if (asked !== this.#asked) return;
    const now = this.#fleet.now();
    const to = Math.round(now + this.#span * AHEAD);
    try {
      const data = await get(`sensors/${encodeURIComponent(id)}/chart`, { from: to - this.#span, to, points: POINTS });
      if (asked !== this.#asked || id !== this.#id) return;
      this.#data = data;
      this.#draw();
      this.#why();
    } catch (failure) {
      if (asked !== this.#asked || id !== this.#id) return;
      if (!this.#data) this.#charts.replaceChildren(el("p", { className: "error" }, failure.message));
    }
    this.#timer = setTimeout(() => this.#load(), REFRESH_MS);
  }

  /** News; those of the sensor that is shown go on its curve at once. */
  take(news) {
    if (!this.#id || !this.#data) return;
    const one = news.find((sensor) => sensor.id === this.#id);
    if (!one) return;
    const { t, quantities } = this.#data;
    const part = this.#span / POINTS;
    const last = t[t.length - 1] ?? 0;
    if (one.last_seen <= last) return;
    const joins = t.length > 1 && one.last_seen - last < part && quantities.some((q) => q.mean[t.length - 1] !== null);
    if (!joins) t.push(one.last_seen);
    for (const q of quantities) {
      const value = one[q.name] ?? null;
      for (const [name, merge] of [["min", Math.min], ["max", Math.max], ["mean", (_, b) => b]]) {
        const column = q[name];
        if (!joins) column.push(value);
        else if (value !== null) column[t.length - 1] = merge(column[t.length - 1] ?? value, value);
      }
    }
    for (const plot of this.#plots) plot.fresh();
    if (one.anomaly) this.#again();
  }

  concern() {
    if (this.#id) { this.#second(); this.#again(); }
  }

  #again() {
    if (!this.#soon) this.#soon = setTimeout(() => { this.#soon = 0; this.#load(); }, 400);
  }

  #second() {
    if (!this.#id) return;
    const sensor = this.#fleet.sensors.get(this.#id);
    const state = sensor?.state ?? "learning";
    this.#dialog.dataset.state = state;
    document.getElementById("sensor-sign").setAttribute("href", `#i-${state}`);
    if (!sensor) return;
    const now = this.#fleet.now();
    const seen = sensor.last_seen ? `heard ${ago(now - sensor.last_seen)}` : "never heard";
    put(document.getElementById("sensor-state"), `${wording(sensor, now)} · ${seen}${sensor.group ? ` · ${sensor.group}` : ""}`);
    const incident = this.#fleet.concerned.get(sensor.id);
    const box = document.getElementById("sensor-incident");
    box.hidden = !incident;
    put(box, incident ? `${incident.severity === "critical" ? "Critical" : "Warning"} for ${span(now - incident.opened)}: ${incident.text}${incident.acknowledged ? `. ${incident.acknowledged.by} looks after it.` : ""}` : "");
    const facts = [
      ["Readings", whole(sensor.readings ?? 0)],
      ["Skipped numbers", whole(sensor.missing ?? 0)],
      ["Sends every", sensor.expected_interval_s ? span(sensor.expected_interval_s * 1000) : "not known yet"],
      ["Silent after", sensor.silent_after_s ? span(sensor.silent_after_s * 1000) : "not known yet"],
      ["Score", `${fixed(sensor.score ?? 0, 2)} (0.5 is the line)`],
      ...(sensor.device?.firmware ? [["Firmware", sensor.device.firmware]] : []),
      ...(sensor.device?.started ? [["Started", `${when(sensor.device.started)}, ${plural(sensor.device.starts, "start", "starts")}${sensor.device.reset ? ` (${sensor.device.reset})` : ""}`]] : []),
      ...(typeof sensor.dew_point === "number" ? [["Dew point", `${fixed(sensor.dew_point, 1)} °C`]] : []),
    ];
    const list = document.getElementById("facts");
    if (list.children.length !== facts.length) {
      list.replaceChildren(...facts.map(() => el("div", {}, el("dt"), el("dd"))));
    }
    facts.forEach((texts, index) => {
      texts.forEach((text, part) => put(list.children[index].children[part], text));
    });
  }

  #why() {
    const { anomalies, all_anomalies: all } = this.#data;
    const newest = [...anomalies].reverse();
    // The same rule again and again is told once.
    const told = [];
    for (const one of newest) {
      const last = told[told.length - 1];
      if (last && last.one.rule === one.rule && last.one.quantity === one.quantity && last.first - one.t < 120_000) {
        last.count += 1;
        last.first = one.t;
      } else {
        told.push({ one, count: 1, first: one.t });
      }
    }
    const items = told.slice(0, TOLD).map(({ one, count, first }) => el("li", {},
      stamp(one.t, when(one.t, true)), " ",
      el("span", { className: "severity" }, one.severity === "critical" ? "critical" : "warning"), " ", one.text,
      count > 1 ? el("span", { className: "meta" }, ` and ${plural(count - 1, "more", "more")} of this kind since ${when(first, true)}`) : ""));
    if (items.length === 0) items.push(el("li", {}, "None in this span of time."));
    if (told.length > TOLD || !all) items.push(el("li", {}, "There are more; choose a shorter span of time."));
    document.getElementById("why").replaceChildren(...items);
  }

  // ---- The charts ----

  #draw() {
    if (!this.#data || !this.#id) return;
    const data = this.#data;
    if (data.quantities.length === 0) {
      this.#clear();
      this.#charts.append(el("p", { className: "empty" }, "Nothing was measured in this span of time."));
      return;
    }
    const same = this.#plots.length === data.quantities.length
      && this.#plots.every((plot, at) => plot.name === data.quantities[at].name);
    const ink = inks();
    if (!same || this.#plots.some((plot) => plot.dressed !== ink.all)) {
      this.#clear();
      data.quantities.forEach((quantity, at) => {
        const spec = this.#fleet.quantities.find((one) => one.name === quantity.name) ?? { name: quantity.name, unit: quantity.unit, min: 0, max: 100 };
        this.#plots.push(new Course(this.#charts, spec, () => this.#data.quantities[at], () => this.#data, ink, this.#fleet));
      });
    }
    for (const plot of this.#plots) plot.fresh();
    const seasonal = data.quantities.some((q) => q.expected?.season);
    const warm = data.quantities.some((q) => q.expected?.baseline);
    put(document.getElementById("legend-band"), seasonal
      ? "expected at this time of day, by what the engine knows now"
      : warm ? "expected: the last day's mean and spread, as of now" : "expected: not known yet");
  }

  #size() {
    for (const plot of this.#plots) plot.size();
  }
}

/** The sensor that an address names. */
function named(hash) {
  if (!hash.startsWith(PLACE)) return null;
  try {
    return decodeURIComponent(hash.slice(PLACE.length));
  } catch {
    return null;
  }
}

function inks() {
  const style = getComputedStyle(document.documentElement);
  const ink = {};
  for (const name of ["ink", "muted", "rule", "accent", "band", "warn", "critical", "surface"]) {
    ink[name] = style.getPropertyValue(`--${name}`).trim();
  }
  ink.all = Object.values(ink).join();
  return ink;
}

/** The course of one quantity. */
class Course {
  name;
  dressed;
  #spec;
  #mine;
  #all;
  #ink;
  #readout;
  #place;
  #fleet;

  constructor(parent, spec, mine, all, ink, fleet) {
    this.name = spec.name;
    this.dressed = ink.all;
    this.#spec = spec;
    this.#mine = mine;
    this.#all = all;
    this.#ink = ink;
    this.#fleet = fleet;
    this.#readout = el("p", { className: "readout", ariaLive: "polite" });
    this.#place = el("div", { className: "plot", tabIndex: 0, role: "img" });
    const title = el("h3", {}, spec.name.replaceAll("_", " "), " ", el("span", { className: "unit" }, spec.unit));
    parent.append(el("section", { className: "course-of" }, el("header", {}, title, this.#readout), this.#place));
    const axis = {
      stroke: ink.muted, font: "12px system-ui, sans-serif",
      grid: { stroke: ink.rule, width: 1 }, ticks: { stroke: ink.rule, width: 1, size: 4 },
    };
    const line = { stroke: ink.accent, width: 1.6, spanGaps: false, points: { show: this.#alone() ? undefined : false } };
    this.plot = new uPlot({
      width: this.#place.clientWidth || 600,
      height: this.#height(),
      pxAlign: 0,
      legend: { show: false },
      cursor: { y: false, points: { size: 8 }, drag: { x: false, y: false } },
      scales: { x: { time: true, range: () => [all().from / 1000, all().to / 1000] }, y: { range: () => this.#range() } },
      axes: [{ ...axis, size: (_, texts) => (texts?.some((text) => text.includes("\n")) ? 48 : 32), space: 90, values: (_, at, __, ___, step) => ticks(at, step) }, { ...axis, size: 54, values: (_, ticks) => ticks.map((v) => fixed(v, ticks[1] - ticks[0] < 0.1 ? 2 : ticks[1] - ticks[0] < 1 ? 1 : 0)) }],
      series: [
        {},
        { ...line },
        { stroke: "transparent", points: { show: false } },
        { stroke: "transparent", points: { show: false } },
      ],
      bands: [{ series: [3, 2], fill: ink.accent + "55" }],
      hooks: {
        drawAxes: [(u) => this.#expected(u)],
        draw: [(u) => this.#anomalies(u)],
        setCursor: [(u) => this.#read(u)],
      },
    }, this.#columns(), this.#place);
    this.#place.addEventListener("keydown", (event) => this.#keys(event));
  }

  #alone() {
    return this.#all().t.length < 40;
  }

  #height() {
    return Math.max(150, Math.min(320, Math.round(innerHeight * 0.24)));
  }

  size() {
    const width = this.#place.clientWidth;
    if (width > 0 && (width !== this.plot.width || this.#height() !== this.plot.height)) {
      this.plot.setSize({ width, height: this.#height() });
    }
  }

  #columns() {
    const q = this.#mine();
    return [this.#all().t.map((ms) => ms / 1000), q.mean, q.min, q.max];
  }

  fresh() {
    this.plot.setData(this.#columns());
    const q = this.#mine();
    const last = q.mean.findLast((value) => value !== null);
    const { from, to, anomalies } = this.#all();
    const mine = anomalies.filter((one) => one.quantity === this.name).length;
    this.#place.ariaLabel = `${this.name}: ${last === undefined ? "no value" : `${this.#text(last)} now`}, `
      + `from ${this.#text(Math.min(...q.min.filter((v) => v !== null)))} to ${this.#text(Math.max(...q.max.filter((v) => v !== null)))} `
      + `between ${when(from)} and ${when(to)}; ${plural(mine, "anomaly", "anomalies")}. Arrow keys read it off.`;
    this.#read(this.plot);
  }

  #text(value) {
    return `${fixed(value, places(this.#spec))} ${this.#spec.unit}`;
  }

  /** What is expected at a time: middle, usual distance, distance of the line. */
  #expects(ms) {
    const expected = this.#mine().expected;
    const season = expected?.season;
    if (season) {
      const { t, expected: values } = season;
      let at = -1;
      for (let low = 0, high = t.length - 1; low <= high;) {
        const middle = (low + high) >> 1;
        if (t[middle] <= ms) { at = middle; low = middle + 1; } else high = middle - 1;
      }
      if (at >= 0 && ms - t[at] < 2 * 600_000) return { middle: values[at], usual: 2 * season.usual, line: season.line };
      return null;
    }
    const baseline = expected?.baseline;
    return baseline ? { middle: baseline.mean, usual: 2 * baseline.spread, line: baseline.line } : null;
  }

  /** Times and middles of what is expected, for drawing. */
  #course() {
    const { from, to } = this.#all();
    const season = this.#mine().expected?.season;
    if (!season) return [from, to];
    // In the middle of each part of the day, so that the band has no steps.
    const inside = season.t.map((ms) => ms + 300_000).filter((ms) => ms > from && ms < to);
    return [from, ...inside, to];
  }

  #between(ms) {
    const season = this.#mine().expected?.season;
    const here = this.#expects(ms - 300_000) ?? this.#expects(ms);
    if (!season || !here) return here;
    const next = this.#expects(ms + 300_000);
    if (!next) return here;
    const share = (((ms - 300_000) % 600_000) + 600_000) % 600_000 / 600_000;
    return { ...here, middle: here.middle + (next.middle - here.middle) * share };
  }

  #range() {
    const q = this.#mine();
    let low = Infinity;
    let high = -Infinity;
    q.min.forEach((value, at) => {
      if (value === null) return;
      low = Math.min(low, value);
      high = Math.max(high, q.max[at]);
    });
    const { from, to } = this.#all();
    const steps = 24;
    for (let step = 0; step <= steps; step += 1) {
      const expected = this.#between(from + ((to - from) * step) / steps);
      if (!expected) continue;
      low = Math.min(low, expected.middle - expected.usual);
      high = Math.max(high, expected.middle + expected.usual);
    }
    if (low === Infinity) return [0, 1];
    const least = (this.#spec.max - this.#spec.min) / 120;
    const room = Math.max((high - low) * 0.1, (least - (high - low)) / 2, 1e-6);
    return [low - room, high + room];
  }

  /** The band that the engine expects, and the lines of its rule, under the curve. */
  #expected(u) {
    const times = this.#course();
    const { ctx, bbox } = u;
    const x = (ms) => u.valToPos(ms / 1000, "x", true);
    const y = (value) => u.valToPos(value, "y", true);
    const points = times.map((ms) => [x(ms), this.#between(ms)]).filter(([, expected]) => expected);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const now = x(this.#fleet.now());
    if (this.#fleet.live && now < bbox.left + bbox.width) {
      ctx.strokeStyle = this.#ink.muted;
      ctx.globalAlpha = 0.5;
      ctx.beginPath();
      ctx.moveTo(now, bbox.top);
      ctx.lineTo(now, bbox.top + bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 1;
    }
    if (points.length > 1) {
      ctx.fillStyle = this.#ink.band;
      ctx.beginPath();
      points.forEach(([at, e], i) => (i ? ctx.lineTo(at, y(e.middle + e.usual)) : ctx.moveTo(at, y(e.middle + e.usual))));
      for (const [at, e] of [...points].reverse()) ctx.lineTo(at, y(e.middle - e.usual));
      ctx.fill();
      ctx.strokeStyle = this.#ink.muted;
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([5 * devicePixelRatio, 5 * devicePixelRatio]);
      for (const way of [1, -1]) {
        ctx.beginPath();
        points.forEach(([at, e], i) => {
          const edge = y(e.middle + way * e.line);
          if (i) ctx.lineTo(at, edge);
          else ctx.moveTo(at, edge);
        });
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  #marks() {
    return this.#all().anomalies.filter((one) => one.quantity === this.name || (one.quantity === null && one.rule !== "silence"));
  }

  #at(u, one) {
    let value = one.observed;
    // Some rules count something else than the value.
    if (one.quantity === null || ["noise", "stuck", "season", "level", "novelty", "forest"].includes(one.rule)) {
      const index = u.valToIdx(one.t / 1000);
      value = this.#mine().mean[index] ?? value;
    }
    const { min, max } = u.scales.y;
    return [u.valToPos(one.t / 1000, "x", true), u.valToPos(Math.min(max, Math.max(min, value)), "y", true)];
  }

  /** A triangle for what is critical, a diamond for a warning: not by colour alone. */
  #anomalies(u) {
    const { ctx } = u;
    const r = 5 * devicePixelRatio;
    ctx.save();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.strokeStyle = this.#ink.surface;
    let last = -Infinity;
    for (const one of this.#marks()) {
      const [x, y] = this.#at(u, one);
      if (x < u.bbox.left || (x - last < 2 * devicePixelRatio)) continue;
      last = x;
      ctx.fillStyle = one.severity === "critical" ? this.#ink.critical : this.#ink.warn;
      ctx.beginPath();
      if (one.severity === "critical") {
        ctx.moveTo(x, y - r * 1.2); ctx.lineTo(x + r * 1.1, y + r * 0.8); ctx.lineTo(x - r * 1.1, y + r * 0.8);
      } else {
        ctx.moveTo(x, y - r); ctx.lineTo(x + r, y); ctx.lineTo(x, y + r); ctx.lineTo(x - r, y);
      }
      ctx.closePath();
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  }

  #read(u) {
    const { idx, left } = u.cursor;
    const t = this.#all().t;
    const hovering = idx != null && left >= 0 && t[idx] !== undefined;
    const index = hovering ? idx : this.#mine().mean.findLastIndex((value) => value !== null);
    const mean = this.#mine().mean[index];
    if (mean == null) return put(this.#readout, "");
    const expected = this.#between(t[index]);
    const near = this.#marks().findLast((one) => Math.abs(u.valToPos(one.t / 1000, "x") - u.valToPos(t[index] / 1000, "x")) < 6);
    const parts = [`${hovering ? when(t[index], true) : "now"}  ${this.#text(mean)}`];
    if (expected) parts.push(`expected ${fixed(expected.middle - expected.usual, places(this.#spec))} to ${this.#text(expected.middle + expected.usual)}`);
    if (hovering && near) parts.push(`▲ ${near.text}`);
    put(this.#readout, parts.join(" · "));
    this.#readout.classList.toggle("odd", Boolean(hovering && near));
  }

  #keys(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (!step) return;
    event.preventDefault();
    const t = this.#all().t;
    const from = this.plot.cursor.idx ?? t.length - 1;
    const next = Math.max(0, Math.min(t.length - 1, from + step));
    this.plot.setCursor({ left: this.plot.valToPos(t[next] / 1000, "x"), top: 20 });
  }
}
