//! A real server on a real socket over a real store, asked by a client that knows just enough HTTP.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vigie_actors::clock::ManualClock;
use vigie_actors::metrics::{Became, Board, BoardConfig, Latest, Shown};
use vigie_actors::reading::{Identity, Reading};
use vigie_actors::score::incident::{Incident, Kind};
use vigie_actors::score::rules::{Rule, Severity, Verdict};
use vigie_actors::score::scorer::IncidentMemory as _;
use vigie_actors::stats::share::Snapshot;
use vigie_actors::stats::state::SensorState;
use vigie_actors::store::row::{Row, StoredValue};
use vigie_actors::store::{self, Ledger};
use vigie_actors::supervise::End;
use vigie_wire::{HUMIDITY, SensorId, TEMPERATURE};

use super::*;

/// What [`verdict`] says.
const STEP: &str = "temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)";

/// When the fixtures begin.
const T0: i64 = 1_790_000_000_000;

fn id(text: &str) -> SensorId {
    text.try_into().unwrap()
}

fn reading(sensor: &str, number: u64, order_ms: i64) -> (Reading, Row) {
    let values = [(TEMPERATURE, 21.4, 0.12), (HUMIDITY, 0.1 + 0.2, -1.5)];
    let reading = Reading {
        sensor: id(sensor),
        device_ms: Some(order_ms),
        received_ms: order_ms + 5,
        order_ms,
        identity: Identity::Sequence {
            boot: "9f3a".try_into().unwrap(),
            seq: number,
        },
        next_s: Some(10),
        start: None,
        values: values
            .iter()
            .map(|(quantity, value, _)| (*quantity, *value))
            .collect(),
    };
    let row = Row {
        entered: number,
        late: false,
        anomaly: false,
        score: 0.2,
        generation: 0,
        delay_ms: 5,
        ahead_ms: Some(0),
        next_s: Some(10),
        start: None,
        values: values
            .iter()
            .map(|(quantity, value, z)| StoredValue {
                quantity: *quantity,
                value: *value,
                z: *z,
            })
            .collect(),
    };
    (reading, row)
}

fn verdict() -> Verdict {
    Verdict {
        rule: Rule::Rate,
        quantity: Some(TEMPERATURE),
        observed: 31.42,
        expected: 21.3,
        line: 21.9,
        ratio: 16.87,
        since_ms: T0,
        evidence: Vec::new(),
    }
}

/// C001 has 23 readings, pairs of them at the same time; C002 has 1,300, of which the newest has no
/// number; C:3 has a state only.
fn fill(store: &Embedded) {
    let mut write = store.write();
    for number in 0..23_u64 {
        let (reading, row) = reading("C001", number, T0 + number.cast_signed() / 2 * 1000);
        write.reading(&reading, &row).unwrap();
    }
    for number in 0..1_300_u64 {
        let (mut reading, row) = reading("C002", number, T0 + number.cast_signed());
        if number == 1_299 {
            reading.identity = Identity::Payload(7);
        }
        write.reading(&reading, &row).unwrap();
    }
    let mut state = SensorState::default();
    write.state(&id("C:3"), Snapshot::of(&state).unwrap());
    write.state(&id("C002"), Snapshot::of(&state).unwrap());
    state.entered = 20;
    state.received_ms = T0;
    state.recent.missing = 3;
    write.state(&id("C001"), Snapshot::of(&state).unwrap());

    let silence = Verdict {
        rule: Rule::Silence,
        quantity: None,
        observed: 60.0,
        expected: 10.0,
        line: 40.0,
        ratio: 3.0,
        since_ms: T0,
        evidence: Vec::new(),
    };
    for (at_ms, sensor, verdict) in [
        (T0 + 1, "C001", &verdict()),
        (T0 + 1, "C002", &verdict()),
        (T0 + 2, "C001", &silence),
    ] {
        write.anomaly(at_ms, &id(sensor), b"tail", verdict).unwrap();
    }
    for (sensor, opened_ms, resolved_ms) in [("C001", T0 + 1, None), ("C002", T0 + 2, Some(T0 + 9))]
    {
        let incident = Incident {
            kind: Kind::Values,
            sensor: Some(id(sensor)),
            group: None,
            opened_ms,
            begun_ms: opened_ms,
            last_ms: opened_ms,
            near_ms: opened_ms,
            resolved_ms,
            first: verdict(),
            also: vec![verdict()],
            worst: verdict(),
            peaks: Vec::new(),
            severity: Severity::Critical,
            anomalies: 2,
            members: Vec::new(),
            relapses: 0,
            acknowledged: None,
            false_alarm: None,
            told: None,
            notices: 1,
        };
        write.incident(&incident).unwrap();
    }
    let ledger = Ledger {
        stored: 1_323,
        duplicate: 2,
        quarantined: [("malformed".to_owned(), 4)].into(),
        anomalies: 3,
        ..Ledger::default()
    };
    write.ledger(&ledger).unwrap();
    write.commit().unwrap();
}

struct Fixture {
    addr: SocketAddr,
    clock: ManualClock,
    health: Arc<Health>,
    metrics: Metrics,
    store: Embedded,
    draining: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

/// Readings that the dashboard gets to know.
fn show(board: &Board, readings: impl IntoIterator<Item = (SensorId, Latest)>) {
    let readings = readings.into_iter();
    let stored = readings.map(|(sensor, latest)| (sensor, Became::Stored(latest)));
    board.update(T0, stored, |latest| latest);
}

async fn serve(token: Option<&str>, limits: Limits) -> Fixture {
    serve_with(token, limits, None).await
}

async fn serve_with(
    token: Option<&str>,
    limits: Limits,
    certificates: Option<ServerCertificates>,
) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), &store::Config::default()).unwrap();
    fill(&store);
    let catalogue = Arc::new(Catalogue::default());
    let registry = Registry::new();
    let metrics = Metrics::new(&registry, &catalogue, BoardConfig::default()).unwrap();
    let latest = Latest {
        received_ms: T0,
        expected_ms: Some(10_000),
        score: 0.2,
        forest: None,
        values: [Shown {
            quantity: TEMPERATURE,
            value: 21.4,
            z: 0.12,
            band: None,
        }]
        .into_iter()
        .collect(),
        skipped: 0,
    };
    show(&metrics.board, [(id("C001"), latest)]);
    let clock = ManualClock::at(T0);
    let health = Arc::new(Health::default());
    let (draining, is_draining) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let addr = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(addr, certificates).await.unwrap();
    let mut server = server.known_as(Some("vigie.example.org"));
    server.limits = limits;
    let addr = server.local_addr();
    let state = State {
        store: store.clone(),
        catalogue,
        registry,
        metrics: metrics.clone(),
        health: Arc::clone(&health),
        clock: Arc::new(clock.clone()),
        token: token.map(Into::into),
        mqtt_addr: Some("127.0.0.1:1883".parse().unwrap()),
        link: None,
        copy: None,
        signer: Signer::new([1; 32]),
        draining: is_draining,
        judgement: Judgement::new(
            &vigie_actors::stats::Config::default(),
            &vigie_actors::score::Config::default(),
            vigie_actors::group::Groups::default(),
        ),
        mails: None,
        live: true,
        secure: false,
    };
    let running = tokio::spawn(server.run(state, stopped));
    Fixture {
        addr,
        clock,
        health,
        metrics,
        store,
        draining,
        stop,
        running,
        _dir: dir,
    }
}

/// What a person answered to an incident; elsewhere this name is that of a server's answer.
use vigie_actors::alert::link::Answer as Deed;

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(
            self.headers["content-type"], "application/json",
            "{}",
            self.body
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Fixture {
    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let headers = format!("host: localhost\r\n{headers}");
        self.ask_nobody(method, path, &headers).await
    }

    /// Without a `Host` unless it is among the headers.
    async fn ask_nobody(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Answer {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    /// All items of a list, page by page.
    async fn pages(&self, path: &str, name: &str, limit: usize) -> Vec<Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let answer = self
                .get(&format!("{path}{join}limit={limit}{cursor}"))
                .await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let page = answer.json();
            let page_items = page[name].as_array().unwrap();
            assert!(page_items.len() <= limit);
            items.extend_from_slice(page_items);
            match page["next"].as_str() {
                Some(next) => {
                    assert_eq!(page_items.len(), limit);
                    cursor = format!("&cursor={next}");
                }
                None => return items,
            }
        }
    }
}

#[tokio::test]
async fn pages_visit_each_reading_once() {
    let server = serve(None, Limits::default()).await;
    let number = |item: &Value| (item["t"].as_i64().unwrap(), item["seq"].as_u64());
    for limit in [1, 3, 23, 1000] {
        let items = server
            .pages("/api/v1/sensors/C001/readings", "readings", limit)
            .await;
        let seen: Vec<_> = items.iter().map(number).collect();
        let expect: Vec<_> = (0..23_i64)
            .map(|n| (T0 + n / 2 * 1000, Some(n.cast_unsigned())))
            .collect();
        assert_eq!(seen, expect, "limit {limit}");
        let items = server.pages("/api/v1/anomalies", "anomalies", limit).await;
        let seen: Vec<_> = items
            .iter()
            .map(|item| item["sensor"].as_str().unwrap())
            .collect();
        assert_eq!(seen, ["C001", "C002", "C001"], "limit {limit}");
        let items = server.pages("/api/v1/sensors", "sensors", limit).await;
        let seen: Vec<_> = items
            .iter()
            .map(|item| item["id"].as_str().unwrap())
            .collect();
        assert_eq!(seen, ["C001", "C002", "C:3"], "limit {limit}");
    }
    // More than is read from the store at a time.
    for limit in [700, 10_000] {
        let items = server
            .pages("/api/v1/sensors/C002/readings", "readings", limit)
            .await;
        let seen: HashSet<_> = items.iter().map(number).collect();
        assert_eq!((items.len(), seen.len()), (1_300, 1_300), "limit {limit}");
    }
    // From is included, to is not.
    let span = format!("from={}&to={}", T0 + 1000, T0 + 3000);
    for limit in [1, 3, 1000] {
        let path = format!("/api/v1/sensors/C001/readings?{span}");
        let items = server.pages(&path, "readings", limit).await;
        let seen: Vec<_> = items
            .iter()
            .map(|item| item["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(seen, [2, 3, 4, 5], "limit {limit}");
    }
    let path = format!("/api/v1/anomalies?from={}&to={}", T0 + 2, T0 + 1);
    assert_eq!(
        server.get(&path).await.body,
        r#"{"anomalies":[],"next":null}"#
    );
    let path = format!("/api/v1/incidents?from={}&to={}", T0 + 2, T0 + 1);
    assert_eq!(
        server.get(&path).await.body,
        r#"{"incidents":[],"next":null}"#
    );
}

#[tokio::test]
async fn shapes_are_exact() {
    let server = serve(None, Limits::default()).await;
    // Time, boot and number of the last reading on the page.
    let time = (T0 + 1000).cast_unsigned() ^ (1 << 63);
    let cursor = format!("{time:016x}3966336100000000{:016x}", 2);
    let path = format!("/api/v1/sensors/C001/readings?limit=1&from={}", T0 + 1000);
    assert_eq!(
        server.get(&path).await.body,
        [
            r#"{"readings":[{"t":1790000001000,"received":1790000001005,"boot":"9f3a","seq":2,"#,
            r#""temperature":21.4,"humidity":0.30000000000000004,"dew_point":-48.44,"#,
            r#""z":{"temperature":0.12,"humidity":-1.5},"score":0.2,"anomaly":false,"#,
            r#""late":false}],"next":""#,
            &cursor,
            r#""}"#,
        ]
        .concat()
    );
    let last = server
        .get("/api/v1/sensors/C002/readings?from=1790000001299")
        .await
        .json();
    assert_eq!(
        (&last["readings"][0]["boot"], &last["readings"][0]["seq"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(
        server.get("/api/v1/sensors").await.body,
        concat!(
            r#"{"sensors":[{"id":"C001","last_seen":1790000011005,"expected_interval_s":10.0,"#,
            r#""readings":22,"missing":3,"temperature":21.4,"humidity":0.30000000000000004,"dew_point":-48.44,"#,
            r#""score":0.2,"anomaly":false,"incident":{"id":"C001-1790000000001","#,
            r#""severity":"critical","rule":"rate","opened":1790000000001},"group":null,"learning":false,"silent_after_s":40.0,"device":null},"#,
            r#"{"id":"C002","last_seen":1790000001304,"expected_interval_s":10.0,"#,
            r#""readings":1299,"missing":0,"temperature":21.4,"humidity":0.30000000000000004,"dew_point":-48.44,"#,
            r#""score":0.2,"anomaly":false,"incident":null,"group":null,"learning":false,"silent_after_s":40.0,"device":null},"#,
            r#"{"id":"C:3","last_seen":null,"expected_interval_s":null,"readings":0,"missing":0,"#,
            r#""score":null,"anomaly":false,"incident":null,"group":null,"learning":true,"silent_after_s":null,"device":null}],"next":null}"#,
        )
    );
    assert_eq!(
        server
            .get("/api/v1/anomalies?from=1790000000001")
            .await
            .json()["anomalies"]
            .as_array()
            .map(|anomalies| (anomalies[0].to_string(), anomalies[2].to_string())),
        Some((
            json!({
                "t": T0 + 1, "sensor": "C001", "rule": "rate", "quantity": "temperature",
                "observed": 31.42, "expected": 21.3, "line": 21.9, "ratio": 16.87, "unit": "°C",
                "severity": "critical", "since": T0,
                "text": STEP,
            })
            .to_string(),
            json!({
                "t": T0 + 2, "sensor": "C001", "rule": "silence", "quantity": null,
                "observed": 60.0, "expected": 10.0, "line": 40.0, "ratio": 3.0, "unit": "s",
                "severity": "critical", "since": T0,
                "text": "no reading for 60 s, expected one every 10 s (line 40 s)",
            })
            .to_string(),
        ))
    );
    assert_eq!(
        server.get("/api/v1/incidents").await.json(),
        json!({ "incidents": [
            incident("C001", T0 + 1, &json!(null)),
            incident("C002", T0 + 2, &json!(T0 + 9)),
        ], "next": null })
    );
    assert_eq!(
        server.get("/api/v1/ledger").await.body,
        concat!(
            r#"{"received":1329,"stored":1323,"late":0,"duplicate":2,"#,
            r#""quarantined":{"malformed":4},"missing":0,"anomalies":3,"#,
            r#""missing_while":{"engine_down":0,"broker_away":0,"unknown":0},"restarts":0}"#,
        )
    );
    // Ids may be escaped, as some clients do with the colon.
    assert_eq!(
        server.get("/api/v1/sensors/C%3a3/readings").await.body,
        r#"{"readings":[],"next":null}"#
    );
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let server = serve(None, Limits::default()).await;
    for (method, path, status, part) in [
        ("GET", "/nowhere", 404, "/ shows"),
        ("GET", "/api/v1/sensors/", 404, "/ shows"),
        ("GET", "//", 404, "/ shows"),
        ("POST", "/nowhere", 404, "/ shows"),
        ("POST", "/api/v1/sensors", 405, "GET or HEAD"),
        ("GET", "/api/v1/incidents/C001-1/ack", 405, "use POST"),
        ("GET", "/api/v1/incidents/C001-1/close", 404, "/ shows"),
        ("GET", "/api/v1/incidents/C001-1", 404, "?open lists"),
        (
            "POST",
            "/api/v1/incidents/C001-1/ack",
            415,
            "application/json",
        ),
        ("DELETE", "/", 405, "GET or HEAD"),
        (
            "GET",
            "/api/v1/sensors?form=1&to=2",
            400,
            "unknown parameter: form, to",
        ),
        (
            "GET",
            "/api/v1/sensors?form=1",
            400,
            "known here: limit, cursor",
        ),
        ("GET", "/api/v1/ledger?x", 400, "unknown parameter: x"),
        ("GET", "/api/v1/sensors?limit=0", 400, "give 1 to 10000"),
        ("GET", "/api/v1/sensors?cursor=2f", 400, "cursor"),
        ("GET", "/api/v1/anomalies?cursor=00", 400, "cursor"),
        ("GET", "/api/v1/anomalies?from=noon", 400, "milliseconds"),
        (
            "GET",
            "/api/v1/sensors/C001/readings?cursor=8000",
            400,
            "cursor",
        ),
        (
            "GET",
            "/api/v1/sensors/C001/readings?limit=x",
            400,
            "limit=x",
        ),
        ("GET", "/api/v1/sensors/C9/readings", 404, "C9"),
        ("GET", "/api/v1/sensors/a.b/readings", 400, "sensor id"),
        ("GET", "/api/v1/sensors/%00%ff/readings", 400, "sensor id"),
        ("GET", "/api/v1/sensors/%/readings", 400, "sensor id"),
        ("GET", "/api/v1/sensors//readings", 400, "sensor id"),
    ] {
        let answer = server.ask(method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let error = &answer.json()["error"];
        let (what, fix) = (
            error["what"].as_str().unwrap(),
            error["fix"].as_str().unwrap(),
        );
        assert!(
            format!("{what}; {fix}").contains(part),
            "{method} {path}: {what}; {fix}"
        );
        assert!(!what.is_empty() && !fix.is_empty());
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
}

#[tokio::test]
async fn every_answer_is_guarded() {
    let server = serve(None, Limits::default()).await;
    for path in ["/", "/metrics", "/livez", "/api/v1/ledger", "/nowhere"] {
        let answer = server.get(path).await;
        assert_eq!(
            answer.headers["x-content-type-options"], "nosniff",
            "{path}"
        );
        assert!(
            answer.headers["content-security-policy"].starts_with("default-src 'none'; "),
            "{path}"
        );
        let head = server.ask("HEAD", path, "").await;
        assert_eq!(
            (head.status, head.body.as_str()),
            (answer.status, ""),
            "{path}"
        );
        assert_eq!(
            head.headers["content-type"], answer.headers["content-type"],
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_page_is_sent_once_and_runs_nothing_but_its_own() {
    let server = serve(Some("a token that is long"), Limits::default()).await;
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<title>Vigie</title>"),
        ("/page/main.js", "text/javascript; charset=utf-8", "import"),
        ("/page/style.css", "text/css; charset=utf-8", "dark"),
        (
            "/page/vendor/LICENSE",
            "text/plain; charset=utf-8",
            "Permission is hereby granted",
        ),
    ] {
        let file = server.get(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.headers["content-type"], kind);
        assert!(file.body.contains(part), "{path}");
        assert_eq!(file.headers["cache-control"], "no-cache");
        let policy = &file.headers["content-security-policy"];
        assert!(policy.contains("script-src 'self'; style-src 'self'; connect-src 'self'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        let tag = &file.headers["etag"];
        for known in [tag.clone(), format!("\"other\", W/{tag}")] {
            let again = format!("if-none-match: {known}\r\n");
            let again = server.ask("GET", path, &again).await;
            assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
        }
        let other = server.ask("GET", path, "if-none-match: \"x\"\r\n").await;
        assert_eq!(other.status, 200);
    }
    for path in ["/page/", "/page/../main.js", "/page/vendor/README.md"] {
        assert_eq!(server.get(path).await.status, 401, "{path}");
    }
}

/// A request with a JSON body.
async fn post(server: &Fixture, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let headers = format!(
        "{headers}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    // The blank line behind the body is not part of it.
    server.ask("POST", path, &headers).await
}

#[tokio::test]
async fn a_browser_gives_the_token_once() {
    let server = serve(Some("open-sesame-open"), Limits::default()).await;
    let session = "/api/v1/session";
    let stranger = server.get(session).await;
    assert_eq!(stranger.body, r#"{"known":false,"token":true}"#);
    for wrong in [r#"{"token":"open-sesame"}"#, r#"{"token":7}"#, "", "{}"] {
        let refused = post(&server, session, "", wrong).await;
        assert_eq!(refused.status, 403, "{wrong}");
        assert!(!refused.headers.contains_key("set-cookie"));
    }
    let right = r#"{"token":"open-sesame-open"}"#;
    let elsewhere = post(&server, session, "sec-fetch-site: same-site\r\n", right).await;
    assert_eq!(elsewhere.status, 403, "{}", elsewhere.body);
    let plain = server.ask("POST", session, "content-length: 0\r\n").await;
    assert_eq!(plain.status, 415, "a form cannot log in");

    let known = post(&server, session, "sec-fetch-site: same-origin\r\n", right).await;
    assert_eq!(known.body, r#"{"known":true,"token":true}"#);
    let cookie = known.headers["set-cookie"].clone();
    assert!(!cookie.contains("sesame"), "{cookie}");
    let (pair, rest) = cookie.split_once("; ").unwrap();
    assert_eq!(rest, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    let by_proxy = post(&server, session, "x-forwarded-proto: https\r\n", right).await;
    assert!(by_proxy.headers["set-cookie"].ends_with("; Secure"));

    let shown = format!("cookie: other=1; {pair}\r\n");
    let ask = async |path: &str| server.ask("GET", path, &shown).await;
    assert_eq!(ask("/api/v1/ledger").await.status, 200);
    assert_eq!(ask(session).await.body, r#"{"known":true,"token":true}"#);
    // A page on another site cannot use it, even where browsers would send it along.
    let id = format!("/api/v1/incidents/C001-{}/ack", T0 + 1);
    let theirs = format!("{shown}sec-fetch-site: cross-site\r\n");
    assert_eq!(post(&server, &id, &theirs, "{}").await.status, 403);
    let ours = format!("{shown}sec-fetch-site: same-origin\r\n");
    assert_eq!(post(&server, &id, &ours, "{}").await.status, 200);
    // A wrong token is not made good by a cookie.
    let both = format!("{shown}authorization: Bearer nonsense\r\n");
    assert_eq!(server.ask("GET", "/metrics", &both).await.status, 401);

    let gone = server.ask("DELETE", session, &shown).await;
    assert_eq!(gone.body, r#"{"known":false,"token":true}"#);
    assert!(gone.headers["set-cookie"].contains("vigie_session=; Path=/; Max-Age=0"));
    server.clock.advance_to(T0 + millis(SESSION));
    assert_eq!(ask("/api/v1/ledger").await.status, 401, "30 days later");
}

#[tokio::test]
async fn without_a_token_everybody_is_known() {
    let server = serve(None, Limits::default()).await;
    let session = server.get("/api/v1/session").await;
    assert_eq!(session.body, r#"{"known":true,"token":false}"#);
}

/// A page elsewhere whose name leads here must not read, nor answer.
#[tokio::test]
async fn without_a_token_the_engine_answers_to_its_own_names_only() {
    let server = serve(None, Limits::default()).await;
    let ledger = async |host: &str| {
        let host = format!("host: {host}\r\n");
        server.ask_nobody("GET", "/api/v1/ledger", &host).await
    };
    for ours in [
        "localhost",
        "LocalHost:8080",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:8080",
        "vigie.example.org",
        "Vigie.example.org:443",
    ] {
        assert_eq!(ledger(ours).await.status, 200, "{ours}");
    }
    for other in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.vigie.example.org",
        "192.0.2.1:8080",
        "[2001:db8::1]:8080",
        "[::1",
        "localhost\r\nhost: evil.example",
    ] {
        let refused = ledger(other).await;
        assert_eq!(refused.status, 421, "{other}");
        let error = &refused.json()["error"];
        assert!(
            error["fix"].as_str().unwrap().contains("http.public_url"),
            "{error}"
        );
    }
    let theirs = "host: evil.example\r\n";
    for path in ["/", "/metrics", "/readyz", "/nowhere"] {
        let refused = server.ask_nobody("GET", path, theirs).await;
        assert_eq!(refused.status, 421, "{path}");
    }
    let answer = format!("/api/v1/incidents/C001-{}/ack", T0 + 1);
    let headers = format!(
        "{theirs}sec-fetch-site: same-origin\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{{}}"
    );
    let refused = server.ask_nobody("POST", &answer, &headers).await;
    assert_eq!(refused.status, 421, "{}", refused.body);
    assert_eq!(orders(&server), []);
    // Old tools give none.
    let old = server.ask_nobody("GET", "/api/v1/ledger", "").await;
    assert_eq!(old.status, 200, "{}", old.body);

    // With a token, the name does not matter.
    let server = serve(Some("open-sesame-open"), Limits::default()).await;
    let right = format!("{theirs}authorization: Bearer open-sesame-open\r\n");
    let known = server.ask_nobody("GET", "/api/v1/ledger", &right).await;
    assert_eq!(known.status, 200, "{}", known.body);
}

/// Among more anomalies than are read at a time, most of them of others.
#[tokio::test]
async fn a_chart_shows_the_newest_anomalies() {
    let server = serve(None, Limits::default()).await;
    let times: Vec<i64> = (0..600).map(|n| T0 + 10_000 + 50 * n).collect();
    let mut write = server.store.write();
    for &at_ms in &times {
        for (sensor, behind_ms) in [("C002", 0), ("C001", 1), ("C001", 2), ("C:3", 3)] {
            let at_ms = at_ms + behind_ms;
            write
                .anomaly(at_ms, &id(sensor), b"tail", &verdict())
                .unwrap();
        }
    }
    write.commit().unwrap();
    let chart = async |from_ms: i64, to_ms: i64| {
        let path = format!("/api/v1/sensors/C002/chart?from={from_ms}&to={to_ms}");
        let chart = server.get(&path).await.json();
        let anomalies = chart["anomalies"].as_array().unwrap().iter();
        let shown: Vec<i64> = anomalies.map(|one| one["t"].as_i64().unwrap()).collect();
        (shown, chart["all_anomalies"].as_bool().unwrap())
    };
    // The span's end is far behind the last of them.
    let day_ms = 24 * 3_600_000;
    assert_eq!(
        chart(T0, T0 + 100 * day_ms).await,
        (times[100..].to_vec(), false)
    );
    // One that `fill` wrote, and from the first on up to before the eleventh.
    let few = [&[T0 + 1][..], &times[..10]].concat();
    assert_eq!(chart(T0, times[10]).await, (few, true));
    assert_eq!(
        chart(times[100], times[599] + 1).await,
        (times[100..].to_vec(), true)
    );
}

#[tokio::test]
async fn trends_and_charts_are_of_bounded_size() {
    let server = serve(None, Limits::default()).await;
    let span = format!("from={T0}&to={}", T0 + 1000);
    let path = format!("/api/v1/trends?sensors=C002,nobody,a.b&{span}&points=4");
    let trends = server.get(&path).await.json();
    assert_eq!(
        trends["trends"]["C002"],
        json!({
            "t": [T0, T0 + 250, T0 + 500, T0 + 750],
            "temperature": [21.4, 21.4, 21.4, 21.4],
            "humidity": [0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2],
        })
    );
    assert_eq!(trends["trends"]["nobody"], json!({ "t": [] }));

    let path = format!("/api/v1/sensors/C002/chart?{span}&points=10");
    let chart = server.get(&path).await.json();
    let times: Vec<i64> = (0..10).map(|part| T0 + 100 * part).collect();
    assert_eq!(
        (&chart["t"], &chart["made_of"]),
        (&json!(times), &json!("readings"))
    );
    let temperature = &chart["quantities"][0];
    assert_eq!(temperature["name"], "temperature");
    assert_eq!(temperature["max"], json!(vec![21.4; 10]));
    assert!(
        temperature["expected"]["baseline"].is_object(),
        "{temperature}"
    );
    assert_eq!(temperature["expected"]["season"], json!(null));
    assert_eq!(
        chart["anomalies"],
        json!([{
            "t": T0 + 1, "rule": "rate", "quantity": "temperature", "observed": 31.42,
            "expected": 21.3, "line": 21.9, "unit": "°C", "severity": "critical", "text": STEP,
        }])
    );
    // Where nothing was measured for long, no line is drawn.
    let path = format!("/api/v1/sensors/C001/chart?from={T0}&to={}", T0 + 100_000);
    let chart = server.get(&path).await.json();
    assert_eq!(chart["t"].as_array().map(Vec::len), Some(12));

    for (path, part) in [
        ("/api/v1/trends", "1 to 100 ids"),
        ("/api/v1/trends?sensors=C001&points=1", "2 to 2000"),
        ("/api/v1/sensors/C001/chart?from=5&to=5", "from before to"),
        (
            "/api/v1/sensors/C001/chart?from=-9223372036854775807&to=5",
            "a year apart",
        ),
        ("/api/v1/sensors/C009/chart", "C009"),
    ] {
        let refused = server.get(path).await;
        assert!(
            refused.status >= 400 && refused.body.contains(part),
            "{path}: {}",
            refused.body
        );
    }
}

#[tokio::test]
async fn health_tells_part_by_part_for_programs() {
    let server = serve(None, Limits::default()).await;
    let health = server.get("/api/v1/health").await.json();
    assert_eq!(
        (&health["ready"], &health["watchers"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(health["ledger"]["received"], 1329);
    assert_eq!(health["parts"][0]["name"], "store");
    let quantities = server.get("/api/v1/quantities").await.json();
    assert_eq!(quantities["quantities"][0]["unit"], "°C");
}

/// Reads a stream until `part` has come.
async fn read_until(stream: &mut TcpStream, part: &str) -> String {
    let mut text = String::new();
    let reading = async {
        let mut bytes = [0; 4096];
        while !text.contains(part) {
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the end came before {part:?}: {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    assert!(read.is_ok(), "no {part:?} in {text}");
    text
}

async fn watch_events(server: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let ask = b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    stream
}

fn newest(at_ms: i64) -> Latest {
    Latest {
        received_ms: at_ms,
        expected_ms: Some(10_000),
        score: 0.7,
        forest: None,
        values: [Shown {
            quantity: TEMPERATURE,
            value: 31.5,
            z: 9.0,
            band: None,
        }]
        .into_iter()
        .collect(),
        skipped: 0,
    }
}

#[tokio::test]
async fn events_tell_what_changes() {
    let limits = Limits {
        // Far less than a watcher stays.
        connection: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = serve(None, limits).await;
    let mut stream = watch_events(&server).await;
    let head = read_until(&mut stream, "event: hello").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let all = head + &read_until(&mut stream, "event: health").await;
    assert!(
        all.contains("event: incidents") && all.contains(STEP),
        "{all}"
    );
    show(&server.metrics.board, [(id("C001"), newest(T0 + 77))]);
    let end = r#""z":{"temperature":9.0}}]}"#;
    let news = read_until(&mut stream, end).await;
    let mut data = news.lines().filter_map(|line| line.strip_prefix("data: "));
    let data = data.find(|data| data.ends_with(end)).unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        data["sensors"][0],
        json!({
            "id": "C001", "last_seen": T0 + 77, "score": 0.7, "anomaly": true,
            "temperature": 31.5, "z": { "temperature": 9.0 },
        })
    );
    assert_eq!(server.get("/api/v1/health").await.json()["watchers"], 1);
}

#[tokio::test]
async fn there_is_an_end_to_watchers() {
    let limits = Limits {
        connections: events::WATCHERS + 8,
        ..Limits::default()
    };
    let server = serve(None, limits).await;
    let mut watchers = Vec::new();
    for _ in 0..events::WATCHERS {
        let mut stream = watch_events(&server).await;
        read_until(&mut stream, "event: hello").await;
        watchers.push(stream);
    }
    let refused = server.get("/api/v1/events").await;
    assert_eq!(
        (refused.status, refused.headers["retry-after"].as_str()),
        (503, "10")
    );
    assert!(
        refused
            .body
            .contains("the rest of the API answers as usual"),
        "{}",
        refused.body
    );
    assert_eq!(server.get("/api/v1/ledger").await.status, 200);
}

#[tokio::test]
async fn a_watcher_that_reads_nothing_is_dropped() {
    let limits = Limits {
        connection: Duration::from_millis(50),
        last_answer: Duration::from_millis(200),
        patience: Patience {
            stalled: Duration::from_millis(300),
            ..Patience::default()
        },
        ..Limits::default()
    };
    let server = serve(None, limits).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(server.addr).await.unwrap();
    let ask = b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    deaf.write_all(ask).await.unwrap();
    let mut watched = false;
    let until_let_go = async {
        for round in 0.. {
            let news = (0..1000).map(|n| (id(&format!("S{n}")), newest(T0 + round)));
            show(&server.metrics.board, news);
            tokio::time::sleep(events::EVERY / 2).await;
            match server.get("/api/v1/health").await.json()["watchers"].as_u64() {
                Some(1) => watched = true,
                _ if watched => break,
                _ => {}
            }
        }
    };
    let let_go = tokio::time::timeout(Duration::from_secs(30), until_let_go).await;
    assert!(let_go.is_ok(), "it still watches");
    // Its connection ends as well, with what it was sent and did not read.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), deaf.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still there");
}

#[tokio::test]
async fn the_token_opens_all_but_the_probes() {
    let server = serve(Some("open sesame"), Limits::default()).await;
    for path in [
        "/metrics",
        "/api/v1/sensors",
        "/api/v1/ledger",
        "/api/v1/events",
        "/api/v1/health",
        "/api/v1/trends?sensors=C001",
        "/nowhere",
    ] {
        for wrong in [
            "",
            "authorization: Bearer\r\n",
            "authorization: Bearer open sesam\r\n",
            "authorization: Bearer open sesame2\r\n",
            "authorization: Bearer \r\n",
            "authorization: Basic open sesame\r\n",
        ] {
            let answer = server.ask("GET", path, wrong).await;
            assert_eq!(answer.status, 401, "{path} {wrong}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert!(!answer.body.contains("sesame"));
        }
        if path == "/api/v1/events" {
            // It would not end.
            continue;
        }
        let right = server
            .ask("GET", path, "Authorization: bearer open sesame\r\n")
            .await;
        assert_eq!(
            right.status,
            if path == "/nowhere" { 404 } else { 200 },
            "{path}"
        );
    }
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    assert_eq!(
        server.get("/readyz?verbose").await.body,
        "[+] store\n[+] stream\n[+] listener\n[+] draining\nready\n",
        "no details for strangers"
    );
}

#[tokio::test]
async fn probes_tell_part_by_part() {
    let server = serve(None, Limits::default()).await;
    assert_eq!(server.get("/livez").await.body, "ok\n");
    assert_eq!(server.get("/readyz").await.body, "ready\n");
    server.health.committed();
    assert_eq!(
        server.get("/readyz?verbose").await.body,
        "[+] store: readable\n[+] stream: 1 commits so far\n\
         [+] listener: 127.0.0.1:1883\n[+] draining: no\nready\n"
    );
    server.draining.send_replace(true);
    let end = End::Fatal("the disk\nis gone".to_owned());
    server.health.give_up(end);
    let answer = server.get("/readyz").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (
            503,
            "[-] stream: the stream cannot go on: the disk is gone\n\
             [-] draining: the engine is shutting down\nnot ready\n"
        )
    );
    assert_eq!(
        server.get("/healthz").await.status,
        200,
        "alive all the same"
    );
}

#[tokio::test]
async fn metrics_are_what_prometheus_expects() {
    let server = serve(None, Limits::default()).await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    let (mut helps, mut types) = (HashSet::new(), HashMap::new());
    let mut samples = HashMap::new();
    for line in answer.body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && helps.insert(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|family| types.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            assert!(family.starts_with("vigie_"), "{line}");
            assert!(
                helps.contains(family) && types.contains_key(family),
                "{line}"
            );
            let value: f64 = value.parse().unwrap();
            assert_eq!(samples.insert(series, value), None, "{line}");
        }
    }
    let build = format!(
        "vigie_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(samples.get(build.as_str()).copied(), Some(1.0));
    assert_eq!(
        samples["vigie_sensor_temperature_celsius{sensor=\"C001\"}"].to_bits(),
        21.4_f64.to_bits()
    );
    assert!(samples["vigie_store_bytes"] > 0.0);

    // The size is measured again, but not at each scrape.
    server.metrics.store_bytes.set(7);
    let is_seven = async || {
        server
            .get("/metrics")
            .await
            .body
            .lines()
            .any(|line| line == "vigie_store_bytes 7")
    };
    assert!(is_seven().await);
    server.clock.advance_to(T0 + MEASURED_EVERY_MS);
    assert!(!is_seven().await);
}

#[tokio::test]
async fn slow_clients_are_dropped() {
    let limits = Limits {
        connections: 2,
        headers: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = serve(None, limits).await;
    let begun = tokio::time::Instant::now();
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost:")
            .await
            .unwrap();
        slow.push(stream);
    }
    // There is no place until the first of them is dropped.
    assert_eq!(server.get("/livez").await.status, 200);
    assert!(begun.elapsed() >= limits.headers, "{:?}", begun.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ended = stream.read_to_end(&mut rest).await;
        assert!(
            rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
            "{rest:?}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn who_does_not_read_the_answer_is_dropped() {
    let limits = Limits {
        connection: Duration::from_secs(1),
        last_answer: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = serve(None, limits).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut greedy = socket.connect(server.addr).await.unwrap();
    let ask = b"GET /api/v1/sensors/C002/readings?limit=10000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // More than the buffers of any socket hold.
    greedy.write_all(&ask.repeat(100)).await.unwrap();
    tokio::time::sleep(limits.connection + limits.last_answer + Duration::from_millis(500)).await;
    server.stop.send_replace(true);
    // Sooner than stopping alone would end it.
    tokio::time::timeout(limits.last_answer / 2, server.running)
        .await
        .expect("no connection is left")
        .unwrap();
}

#[tokio::test]
async fn stops_when_told() {
    let server = serve(None, Limits::default()).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    server.stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(2), server.running)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_explained() {
    let first = Server::bind("127.0.0.1:0".parse().unwrap(), None)
        .await
        .unwrap();
    let error = format!(
        "{:#}",
        Server::bind(first.local_addr(), None).await.unwrap_err()
    );
    for part in [
        &first.local_addr().to_string(),
        "--http",
        "http.addr",
        "something else listens",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// An incident as the API shows it.
fn incident(sensor: &str, opened: i64, resolved: &Value) -> Value {
    json!({
        "id": format!("{sensor}-{opened}"), "kind": "values", "sensor": sensor,
        "group": null, "sensors": [], "opened": opened,
        "resolved": resolved, "severity": "critical", "rule": "rate",
        "quantity": "temperature", "anomalies": 2,
        "text": STEP, "also": [STEP], "relapses": 0, "notices": 1,
        "acknowledged": null, "false_alarm": null,
    })
}

#[tokio::test]
async fn incidents_are_shown_alone_and_those_that_are_open() {
    let server = serve(None, Limits::default()).await;
    assert_eq!(
        server.get("/api/v1/incidents?open").await.json(),
        json!({ "incidents": [incident("C001", T0 + 1, &json!(null))], "next": null })
    );
    assert_eq!(
        server
            .get(&format!("/api/v1/incidents/C002-{}", T0 + 2))
            .await
            .json(),
        incident("C002", T0 + 2, &json!(T0 + 9))
    );
}

/// The orders that wait in the store.
fn orders(server: &Fixture) -> Vec<(String, vigie_actors::score::incident::Deed, String)> {
    let orders = server.store.orders(0).unwrap().into_iter();
    orders
        .map(|(_, order)| (order.incident, order.deed, order.by))
        .collect()
}

#[tokio::test]
async fn programs_answer_by_the_api() {
    use vigie_actors::score::incident::Deed::{Acknowledge, Silence};
    let server = serve(None, Limits::default()).await;
    let id = format!("C001-{}", T0 + 1);
    let path = |answer: &str| format!("/api/v1/incidents/{id}/{answer}");
    for (answer, body, status, part) in [
        ("ack", r#"{"by":"Ada\n"}"#, 200, "\"acknowledged\""),
        ("silence", r#"{"for":"2h"}"#, 200, "\"id\""),
        ("silence", r#"{"for":"9000d"}"#, 400, "a year at most"),
        ("ack", r#"{"until":5}"#, 400, "unknown field"),
        ("ack", "{", 400, "cannot be read"),
        ("ack", &" ".repeat(5000), 413, "too large"),
    ] {
        let answered = post(&server, &path(answer), "", body).await;
        assert_eq!(answered.status, status, "{body}: {}", answered.body);
        assert!(answered.body.contains(part), "{}", answered.body);
    }
    let unknown = post(&server, "/api/v1/incidents/C009-5/ack", "", "{}").await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    assert_eq!(
        orders(&server),
        [
            (id.clone(), Acknowledge, "Ada".to_owned()),
            (id, Silence(T0 + 7_200_000), "API".to_owned()),
        ]
    );
}

#[tokio::test]
async fn people_answer_by_a_link_that_does_nothing_until_a_button_is_pressed() {
    let server = serve(Some("a token that is long"), Limits::default()).await;
    let id = format!("C001-{}", T0 + 1);
    let signer = Signer::new([1; 32]);
    let path = signer.path(&id, Deed::FalseAlarm, T0 + 1000);
    let page = server.get(&path).await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(
        page.body.contains("<form method=\"post\">"),
        "{}",
        page.body
    );
    assert!(page.headers["content-security-policy"].contains("form-action 'self'"));
    assert_eq!(orders(&server), []);
    let pressed = server.ask("POST", &path, "").await;
    assert!(
        pressed.status == 200 && pressed.body.contains("Noted"),
        "{}",
        pressed.body
    );
    assert_eq!(orders(&server).len(), 1);

    let forged = Signer::new([2; 32]).path(&id, Deed::FalseAlarm, T0 + 1000);
    let longer = path.replace(
        &format!("until={}", T0 + 1000),
        &format!("until={}", T0 + 9000),
    );
    for path in [&forged, &longer, &path.replace("false-alarm", "silence")] {
        let refused = server.ask("POST", path, "").await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.body.contains("does not work"), "{}", refused.body);
    }
    server.clock.advance_to(T0 + 1000);
    assert_eq!(server.get(&path).await.status, 403, "too old");
    assert_eq!(orders(&server).len(), 1);
}
