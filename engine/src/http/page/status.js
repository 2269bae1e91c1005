// How the engine does: the tiles, and what is behind each.

import { bytes, closable, el, fixed, open, plural, put, sign, short, span, stamp, whole } from "./format.js";
import { Incidents, pastList } from "./incidents.js";

const dialog = document.getElementById("detail");
const body = document.getElementById("detail-body");
const title = document.getElementById("detail-title");

function tile(name) {
  const root = document.getElementById(`tile-${name}`);
  const [, value, note] = root.children;
  return {
    root,
    set(text, more, trouble) {
      put(value, text);
      put(note, more);
      root.dataset.trouble = trouble ? "yes" : "";
    },
  };
}

export class Status {
  health = null;
  #tiles = { ledger: tile("ledger"), mail: tile("mail"), engine: tile("engine"), past: tile("past") };
  #now;
  #last = null;
  #rate = null;
  #shown = null;

  constructor(now) {
    this.#now = now;
    closable(dialog, () => { this.#shown = null; });
    const views = {
      ledger: ["What became of every message", () => this.#ledger()],
      mail: ["Mail", () => this.#mail()],
      engine: ["The engine", () => this.#engine()],
      past: ["Incidents that are over", null],
    };
    for (const [name, [heading, view]] of Object.entries(views)) {
      this.#tiles[name].root.addEventListener("click", () => {
        put(title, heading);
        if (view) {
          this.#shown = view;
          body.replaceChildren(...view());
        } else {
          body.replaceChildren(el("p", {}, "Looking …"));
          this.#past();
        }
        open(dialog);
      });
    }
    document.addEventListener("incident-over", () => this.#count());
    setInterval(() => this.#count(), 60_000);
  }

  async #past() {
    try {
      body.replaceChildren(pastList(await Incidents.past(this.#now())));
    } catch (failure) {
      body.replaceChildren(el("p", { className: "error" }, failure.message));
    }
  }

  async #count() {
    // Nobody asks before it is known that this browser may.
    if (!this.health) return;
    try {
      const past = await Incidents.past(this.#now());
      const wrong = past.filter((one) => one.false_alarm).length;
      const note = wrong ? `over in 7 days, ${plural(wrong, "false alarm", "false alarms")}` : "over in the last 7 days";
      this.#tiles.past.set(whole(past.length), note, false);
    } catch {
      // Said elsewhere: there is no connection.
    }
  }

  /** What is wrong with the engine itself, in words; nothing if it is all right. */
  trouble() {
    const h = this.health;
    if (!h) return null;
    if (h.disk_full) return "The disk is full: nothing is stored and nothing acknowledged.";
    const failed = h.parts.find((part) => !part.ready);
    if (failed) return `The engine cannot do its work. ${failed.name}: ${failed.detail}`;
    if (h.broker && !h.broker.connected) {
      return `No link to the broker at ${h.broker.target}${h.broker.trouble ? `: ${h.broker.trouble}` : ""}`;
    }
    return null;
  }

  take(health) {
    const first = !this.health;
    this.health = health;
    if (first) this.#count();
    const { ledger, mail, mongodb } = health;
    const now = health.now;
    const aside = total(ledger.quarantined);
    if (this.#last && now > this.#last.now) {
      const rate = (ledger.received - this.#last.received) / ((now - this.#last.now) / 1000);
      this.#rate = this.#rate === null ? rate : this.#rate + 0.3 * (rate - this.#rate);
    }
    this.#last = { now, received: ledger.received };
    const rest = ledger.received - ledger.stored - ledger.duplicate - aside;
    const rate = this.#rate === null ? "" : `, ${fixed(this.#rate, this.#rate < 10 ? 1 : 0)}/s`;
    this.#tiles.ledger.set(short(ledger.stored),
      rest === 0 ? `stored${rate}${aside ? `, ${short(aside)} set aside` : ""}` : `${whole(rest)} do not add up`, rest !== 0);

    if (!mail) this.#tiles.mail.set("off", "nobody is told", false);
    else if (!mail.budget) this.#tiles.mail.set("files", mail.waiting ? `${whole(mail.waiting)} wait` : "no mail server is set", false);
    else {
      const low = mail.budget.left === 0;
      this.#tiles.mail.set(`${whole(mail.budget.left)} left`,
        mail.waiting ? `of ${whole(mail.budget.daily)} a day, ${whole(mail.waiting)} wait` : `of ${whole(mail.budget.daily)} a day`, low);
    }

    const trouble = this.trouble();
    const copy = mongodb && !mongodb.connected ? "MongoDB away" : mongodb?.waiting > 10_000 ? `${short(mongodb.waiting)} rows wait for MongoDB` : "";
    this.#tiles.engine.set(trouble ? "trouble" : "ready", copy || `up for ${span(now - health.started)}`, Boolean(trouble || copy));
    put(document.getElementById("version"), health.version);
    document.getElementById("leave").hidden = !health.token;
    if (this.#shown) body.replaceChildren(...this.#shown());
  }

  #ledger() {
    const { ledger } = this.health ?? {};
    if (!ledger) return [el("p", {}, "Looking …")];
    const aside = total(ledger.quarantined);
    const rest = ledger.received - ledger.stored - ledger.duplicate - aside;
    const rows = [
      ["Received", ledger.received, ""],
      ["stored", ledger.stored, ledger.late ? `${whole(ledger.late)} of them late` : "late ones included"],
      ["duplicate", ledger.duplicate, "came again, and changed nothing"],
      ...Object.entries(ledger.quarantined).map(([reason, count]) => [`set aside: ${reason}`, count, ""]),
    ];
    const bar = el("div", { className: "share", role: "img", ariaLabel: "Shares of all messages" });
    for (const [name, count] of [["stored", ledger.stored], ["duplicate", ledger.duplicate], ["aside", aside]]) {
      if (!count) continue;
      const part = el("span", { className: name });
      part.style.flexGrow = count;
      bar.append(part);
    }
    return [
      el("p", {}, rest === 0 ? "Received = stored + duplicate + set aside. It adds up." : `${whole(rest)} messages do not add up: run engine doctor.`),
      bar,
      table(rows.map(([name, count, note]) => [name, whole(count), note])),
      el("p", {}, `${plural(ledger.missing, "reading was", "readings were")} skipped by the sensors' own numbers; ${plural(ledger.anomalies, "anomaly", "anomalies")} in all. Counted since the store was made.`),
    ];
  }

  #mail() {
    const mail = this.health?.mail;
    if (!mail) return [el("p", {}, "This run mails nothing.")];
    const rows = [["To", mail.to, ""], ["Waiting", whole(mail.waiting), ""]];
    if (mail.budget) {
      const { daily, used, left, left_for_critical, reserve } = mail.budget;
      rows.push(["Used in 24 hours", `${whole(used)} of ${whole(daily)}`, ""],
        ["Left", whole(left), "for any incident"],
        ["Left for critical ones", whole(left_for_critical), `the last ${whole(reserve)} are theirs`]);
    }
    const text = mail.budget ? "When the day's mails run short, notices go together."
      : "No mail server is set, so each notice becomes a file that a mail program can open.";
    return [table(rows), el("p", {}, text)];
  }

  #engine() {
    const h = this.health;
    if (!h) return [el("p", {}, "Looking …")];
    const parts = h.parts.map((part) => {
      const bad = !part.ready || (part.name === "broker" && !h.broker?.connected) || (part.name === "mongodb" && !h.mongodb?.connected);
      return el("li", { className: bad ? "bad" : "" }, sign(bad ? "anomaly" : "ok"), el("strong", {}, part.name), " ", bad ? "trouble: " : "", part.detail);
    });
    const rows = [
      ["Version", h.version, ""],
      ["Up since", stamp(h.started), span(h.now - h.started)],
      ["Sensors", whole(h.sensors), h.sensors > h.live_sensors ? `the newest values of ${whole(h.live_sensors)} are live` : ""],
      ["Store", bytes(h.store_bytes), ""],
      ["Pages that watch", whole(h.watchers), ""],
    ];
    if (h.broker) rows.push(["Broker", h.broker.connected ? "connected" : "not connected", h.broker.target]);
    if (h.mongodb) {
      const m = h.mongodb;
      rows.push(["MongoDB", m.connected ? "connected" : "not connected", m.trouble ?? m.target],
        ["Rows that wait for it", whole(m.waiting), m.catching_up ? "and what was stored before" : ""],
        ["Size there", m.used_bytes === null ? "not known yet" : `${bytes(m.used_bytes)} of ${bytes(m.max_bytes)}`,
          m.full_at ? `full on ${new Date(m.full_at * 1000).toLocaleDateString()}` : ""]);
    }
    return [el("ul", { className: "parts" }, ...parts), table(rows)];
  }
}

function total(counts) {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}

function table(rows) {
  const row = ([name, value, note]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value), el("td", { className: "note" }, note ?? ""));
  return el("table", {}, el("tbody", {}, ...rows.map(row)));
}
