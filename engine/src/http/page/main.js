// The live page: puts the parts together.

import { Ear, get, leave, post } from "./api.js";
import { Fleet, STATES, WORDS } from "./fleet.js";
import { clock, el, keep, open, plural, put, recall, sign, span, when, whole } from "./format.js";
import { about, Incidents } from "./incidents.js";
import { SensorView } from "./sensor.js";
import { Status } from "./status.js";

const at = (id) => document.getElementById(id);

// ---- Colours ----

const themes = ["system", "light", "dark"];
let theme = recall("theme") ?? "system";
function dress() {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  at("theme").ariaLabel = `Colours: ${theme === "system" ? "as the system" : theme}`;
  at("theme").title = at("theme").ariaLabel;
  document.dispatchEvent(new Event("dressed"));
}
at("theme").addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  keep("theme", theme);
  dress();
});
dress();

// ---- The parts ----

const fleet = new Fleet(() => { states(); verdict(); });
const now = () => fleet.now();
const status = new Status(now);
const incidents = new Incidents(now, tell, () => { fleet.concern(incidents.open); verdict(); });
const view = new SensorView(fleet, incidents);
let link = "waiting";
let lostSince = 0;
let started = 0;

function tell(text, urgent) {
  const place = at(urgent ? "shout" : "say");
  place.append(el("p", {}, text));
  while (place.children.length > 4) place.firstChild.remove();
}

const ear = new Ear(heard, linked);

function heard(event, data) {
  if (event === "hello") {
    fleet.live = data.live;
    if (started && started !== data.started) tell("The engine has started again.", false);
    started = data.started;
    load();
  } else if (event === "lost") {
    load();
  } else if (event === "readings") {
    fleet.take(data.sensors);
    view.take(data.sensors);
  } else if (event === "incidents") {
    incidents.take(data);
    view.concern();
  } else if (event === "health") {
    fleet.live = data.live;
    fleet.skew = data.now - Date.now();
    status.take(data);
    verdict();
  }
}

async function load() {
  try {
    await fleet.load();
    loaded = true;
    verdict();
  } catch {
    // The ear knows as well that there is no connection.
  }
}
let loaded = false;
setInterval(() => { if (link === "live") load(); }, 60_000);
// Newest values of more sensors than the engine tells of.
setInterval(() => {
  const health = status.health;
  if (link === "live" && health && health.sensors > health.live_sensors) load();
}, 15_000);

function linked(state) {
  if (state === "stranger") return;
  if (state === "lost" && link !== "lost") {
    lostSince = Date.now();
    // A browser that was sent away is told so by any answer.
    get("session").then(({ token, known }) => { if (token && !known) ask(); }).catch(() => {});
  }
  if (state === link) return;
  link = state;
  at("link").dataset.state = state;
  verdict();
}

// ---- First of all: is everything all right? ----

function verdict() {
  const counts = fleet.counts();
  const total = fleet.sensors.size;
  const waiting = incidents.open.filter((one) => !one.acknowledged);
  const others = incidents.total - incidents.open.length;
  const cared = incidents.open.length - waiting.length;
  const critical = waiting.some((one) => one.severity === "critical");
  const lost = link === "lost" && Date.now() - lostSince > 4000;
  const trouble = status.trouble();
  let kind = "ok";
  let icon = "ok";
  let title = total === 1 ? "The sensor is as usual" : `All ${whole(total)} sensors are as usual`;
  let why = heardLately(total);
  if (lost) {
    [kind, icon, title] = ["lost", "silent", "No connection to the engine"];
    why = `Since ${clock(lostSince)}. What is shown is from then. Trying again …`;
  } else if (!loaded) {
    [kind, icon, title, why] = ["waiting", "learning", "Looking …", ""];
  } else if (trouble) {
    [kind, icon, title, why] = ["critical", "anomaly", "The engine has trouble", trouble];
  } else if (waiting.length) {
    kind = critical ? "critical" : "warn";
    icon = "anomaly";
    title = `${plural(waiting.length + others, "incident needs", "incidents need")} somebody`;
    const worst = incidents.sorted()[0];
    why = `${about(worst)}: ${worst.text}. Since ${when(worst.opened)}, for ${span(now() - worst.opened)}.`;
  } else if (cared) {
    [kind, icon] = ["care", "care"];
    title = `${plural(cared, "incident is", "incidents are")} looked after`;
    const one = incidents.open[0];
    why = `${one.acknowledged.by} looks after ${about(one)} since ${when(one.acknowledged.at)}.`;
  } else if (total === 0) {
    [kind, icon, title] = ["waiting", "learning", "No sensor has sent anything yet"];
    const listener = status.health?.parts.find((part) => part.name === "listener")?.detail;
    why = listener && listener !== "none" ? `Devices publish to sensors/<id>/reading at ${listener}.` : "";
  } else if (counts.silent || counts.anomaly) {
    const odd = counts.silent + counts.anomaly;
    [kind, icon] = ["warn", counts.anomaly ? "anomaly" : "silent"];
    title = `${plural(odd, "sensor is", "sensors are")} out of the usual`;
    why = "It is no incident, or not yet.";
  } else if (counts.learning === total) {
    [kind, icon, title] = ["waiting", "learning", "Learning what is usual"];
    why = `${plural(total, "sensor is", "sensors are")} heard. What cannot be true is told from the first reading on.`;
  }
  document.body.dataset.verdict = kind;
  at("verdict-sign").setAttribute("href", `#i-${icon}`);
  put(at("verdict-title"), title);
  put(at("verdict-why"), why);
  const open = incidents.total;
  document.title = lost ? "✕ Vigie" : open ? `(${open}) ${waiting.length ? "▲" : "✓"} Vigie` : "Vigie";
  put(at("link-text"), lost || link === "lost" ? "no connection" : link === "polling" ? "every 5 s" : link === "live" ? (fleet.live ? "live" : "recording") : "connecting");
}

function heardLately(total) {
  if (!total) return "";
  let newest = 0;
  for (const sensor of fleet.sensors.values()) newest = Math.max(newest, sensor.last_seen ?? 0);
  const counts = fleet.counts();
  const learning = counts.learning ? ` ${plural(counts.learning, "one still learns", "still learn")} what is usual.` : "";
  return `Last reading ${fleet.live ? (now() - newest < 3000 ? "just now" : `${span(now() - newest)} ago`) : `of ${when(newest, true)}`}.${learning}`;
}

setInterval(() => { put(at("clock"), clock(Date.now())); verdict(); }, 1000);
put(at("clock"), clock(Date.now()));

// ---- What to show ----

const chips = new Map();
let only = "";
for (const state of ["", ...STATES]) {
  const count = el("span", { className: "count" });
  const chip = el("button", { type: "button", className: "chip", ariaPressed: String(state === only) },
    ...(state ? [sign(state)] : []), state ? WORDS[state] : "all", " ", count);
  chip.dataset.state = state;
  chip.addEventListener("click", () => {
    only = state;
    for (const [other, { chip }] of chips) chip.ariaPressed = String(other === only);
    fleet.show({ state });
  });
  chips.set(state, { chip, count });
  at("states").append(chip);
}
function states() {
  const counts = fleet.counts();
  for (const [state, { chip, count }] of chips) {
    const number = state ? counts[state] : fleet.sensors.size;
    put(count, whole(number));
    chip.classList.toggle("empty", number === 0 && state !== "");
  }
}
at("search").addEventListener("input", () => fleet.show({ text: at("search").value }));
at("by").addEventListener("change", () => fleet.show({ by: at("by").value }));
at("trend").addEventListener("change", () => fleet.show({ span: Number(at("trend").value) }));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, dialog")) return;
  event.preventDefault();
  at("search").focus();
});

// ---- Who may look ----

const login = at("login");
login.addEventListener("cancel", (event) => event.preventDefault());
login.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  put(at("login-error"), "");
  try {
    await post("session", { token: at("token").value.trim() });
    at("token").value = "";
    login.close();
    ear.start();
  } catch (failure) {
    put(at("login-error"), failure.message);
    at("token").select();
  }
});
function ask() {
  ear.stop();
  open(login);
}
document.addEventListener("needs-token", ask);
at("leave").addEventListener("click", async () => {
  await leave().catch(() => {});
  location.reload();
});

async function begin() {
  try {
    const { token, known } = await get("session");
    if (token && !known) ask();
    else ear.start();
  } catch {
    linked("lost");
    setTimeout(begin, 3000);
  }
}
begin();
view.follow();
