// Questions to the engine, and its events. Everything is asked of the place the page came from.

/** The engine said no. */
export class Refused extends Error {
  constructor(status, what, fix) {
    super(fix ? `${what}; ${fix}` : what);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  const body = await answer.json().catch(() => null);
  if (answer.ok && body) return body;
  if (answer.status === 401) document.dispatchEvent(new Event("needs-token"));
  const error = body?.error;
  throw new Refused(answer.status, error?.what ?? `the engine answered ${answer.status}`, error?.fix);
}

export function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return ask(`api/v1/${path}${query ? `?${query}` : ""}`);
}

export function post(path, body) {
  return ask(`api/v1/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

export function leave() {
  return ask("api/v1/session", { method: "DELETE" });
}

/** All of a list, page by page. */
export async function list(path, name, parameters = {}) {
  const items = [];
  let cursor = {};
  for (;;) {
    const page = await get(path, { limit: 1000, ...parameters, ...cursor });
    items.push(...page[name]);
    if (!page.next) return items;
    cursor = { cursor: page.next };
  }
}

/** What the engine tells by itself. */
const TOLD = ["hello", "readings", "incidents", "health", "lost"];
/** Asked for this often while it cannot tell by itself. */
const POLL_MS = 5000;
const RETRY_MS = 10_000;
/** The engine says something at least every 15 seconds; a connection without that is none. */
const DEAF_MS = 8_000;

/** Listens to the engine, and asks it while listening does not work. */
export class Ear {
  #heard;
  #state;
  #source = null;
  #polling = 0;
  #retry = 0;
  #last = 0;

  /** `heard(event, data)` for each event; `state(name)`: live, polling or lost. */
  constructor(heard, state) {
    this.#heard = heard;
    this.#state = state;
    setInterval(() => this.#check(), 2000);
  }

  start() {
    this.stop();
    this.#last = Date.now();
    const source = new EventSource("api/v1/events");
    this.#source = source;
    for (const name of TOLD) {
      source.addEventListener(name, (event) => {
        this.#last = Date.now();
        clearInterval(this.#polling);
        this.#polling = 0;
        this.#state("live");
        this.#heard(name, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      // A browser tries again by itself, unless the engine said no.
      if (source.readyState !== EventSource.CLOSED) {
        this.#state("lost");
        return;
      }
      this.#poll();
      this.#retry = setTimeout(() => this.start(), RETRY_MS);
    });
  }

  stop() {
    this.#source?.close();
    this.#source = null;
    clearTimeout(this.#retry);
    clearInterval(this.#polling);
    this.#polling = 0;
  }

  #check() {
    const silent = Date.now() - this.#last;
    if (this.#source?.readyState === EventSource.OPEN && silent > DEAF_MS) this.#state("lost");
  }

  #poll() {
    if (this.#polling) return;
    const once = async () => {
      try {
        const [sensors, incidents, health] = await Promise.all([
          list("sensors", "sensors"), get("incidents", { open: "" }), get("health"),
        ]);
        this.#last = Date.now();
        this.#state("polling");
        this.#heard("readings", { sensors });
        const open = incidents.incidents.reverse();
        this.#heard("incidents", { open: open.slice(0, 200), total: open.length });
        this.#heard("health", health);
      } catch (error) {
        this.#state(error instanceof Refused && error.status === 401 ? "stranger" : "lost");
      }
    };
    this.#polling = setInterval(once, POLL_MS);
    once();
  }
}
