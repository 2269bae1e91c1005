// Numbers, times and small pieces of the page. What comes from outside becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children; texts become text nodes. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** One of the signs in the sprite. */
export function sign(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** An SVG path, for a trend. */
export function path(name) {
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("class", name);
  path.setAttribute("vector-effect", "non-scaling-stroke");
  return path;
}

export function picture() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("viewBox", "0 0 100 30");
  return svg;
}

/** Text, only if it is another one: what does not change costs nothing. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const digits = new Map();

/** A number with so many digits behind the point. */
export function fixed(value, places) {
  if (!digits.has(places)) {
    digits.set(places, new Intl.NumberFormat(undefined, {
      minimumFractionDigits: places, maximumFractionDigits: places,
    }));
  }
  return digits.get(places).format(value);
}

/** Digits behind the point that make sense for a quantity. */
export function places(quantity) {
  const range = quantity.max - quantity.min;
  return range >= 1000 ? 0 : range >= 20 ? 1 : range >= 2 ? 2 : 3;
}

export function whole(value) {
  return fixed(value, 0);
}

/** 12,345 or 1.2 M, where there is little room. */
export function short(value) {
  if (value < 10_000) return whole(value);
  return new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${fixed(value, value < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
}

/** A span of time in its largest unit. */
export function span(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function ago(ms) {
  return ms < 1500 ? "now" : `${span(ms)} ago`;
}

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const timeExact = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric" });
const dayTime = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** Local time; with the day if that is not today. */
export function when(ms, exact = false) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return (today ? (exact ? timeExact : time) : dayTime).format(date);
}

/** Labels of an axis of time, in seconds: the day where it begins. */
export function ticks(seconds, step) {
  return seconds.map((at, index) => {
    const date = new Date(at * 1000);
    const before = index ? new Date(seconds[index - 1] * 1000) : null;
    const newDay = before && before.toDateString() !== date.toDateString();
    if (step >= 86_400) return day.format(date);
    const text = (step < 60 ? timeExact : time).format(date);
    return newDay ? `${text}\n${day.format(date)}` : text;
  });
}

export function clock(ms) {
  return time.format(new Date(ms));
}

/** A `time` element: people see local time, programs the exact one. */
export function stamp(ms, text = when(ms)) {
  return el("time", { dateTime: new Date(ms).toISOString(), title: new Date(ms).toLocaleString() }, text);
}

export function plural(count, one, many) {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

/** In front of a sensor's id in the address of the page. */
export const PLACE = "#sensor=";

export function place(id) {
  return PLACE + encodeURIComponent(id);
}

/** What this browser keeps, if it keeps anything. */
export function recall(key) {
  try {
    return localStorage.getItem(`vigie-${key}`);
  } catch {
    return null;
  }
}

export function keep(key, value) {
  try {
    localStorage.setItem(`vigie-${key}`, value);
  } catch {
    // It works without.
  }
}

/** Opens a dialog that Escape, its buttons marked so, and a click beside it close. */
export function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

export function closable(dialog, closed = () => {}) {
  dialog.addEventListener("close", closed);
  for (const button of dialog.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => dialog.close());
  }
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target !== dialog) return;
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right
      && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside) dialog.close();
  });
}
