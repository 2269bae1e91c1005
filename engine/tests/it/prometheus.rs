//! A real Prometheus with the rules of this repository, scraping the real engine: every expression of
//! dashboards and rules gives data, and every metric of the engine is shown or watched.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::alerts::Manager;
use super::foreign::is_there;
use super::harness::{Engine, PATIENCE, get, package_file, simulate, text_of, wait_until};
use super::mail_server::{MailServer, PASSWORD};
use super::mongo_server::{Brand, MongoServer};
use super::mosquitto::Mosquitto;
use super::mqtt::{Publisher, Version};
use super::smtp::alarm;

struct Prometheus {
    child: Child,
    addr: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Prometheus {
    /// With the repository's config, but for addresses and pace.
    fn start(dir: &Path, engine: SocketAddr) -> Self {
        let rules = package_file("../dashboards/rules/vigie.yml");
        Self::start_with(dir, engine, &rules, free())
    }

    /// With other rules, and an Alertmanager.
    fn start_with(dir: &Path, engine: SocketAddr, rules: &Path, manager: SocketAddr) -> Self {
        let addr = free();
        let config = fs::read_to_string(package_file("../prometheus.yml")).unwrap();
        let config = config
            .replace("dashboards/rules/*.yml", rules.to_str().unwrap())
            .replace("localhost:8080", &engine.to_string())
            .replace("localhost:9093", &manager.to_string())
            .replace("15s", "1s");
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={addr}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self { child, addr };
        wait_until("Prometheus", PATIENCE, || match get(addr, "/-/ready") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        prometheus
    }

    /// In HTTP/1.0, for long answers come in chunks otherwise.
    fn ask(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Labels of the samples that an expression gives now.
    fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let escaped = expr.bytes().fold(String::new(), |mut text, byte| {
            write!(text, "%{byte:02x}").unwrap();
            text
        });
        let answer = self.ask(&format!("/api/v1/query?query={escaped}"));
        match answer["data"]["result"].as_array() {
            Some(samples) => Ok(samples.iter().map(|one| one["metric"].clone()).collect()),
            None => Err(format!("{}: {expr}", answer["error"])),
        }
    }

    /// The same, as soon as there are some: what is computed by rules takes a moment.
    fn samples(&self, what: &str, expr: &str) -> Result<Vec<Value>, String> {
        let begun = Instant::now();
        loop {
            match self.query(expr) {
                Ok(none) if none.is_empty() && begun.elapsed() > PATIENCE / 3 => {
                    return Err(format!("{what}: empty: {expr}"));
                }
                Ok(none) if none.is_empty() => std::thread::sleep(Duration::from_millis(100)),
                Ok(samples) => return Ok(samples),
                Err(error) => return Err(format!("{what}: {error}")),
            }
        }
    }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What a dashboard asks for, as Grafana would send it.
fn panel_expressions(file: &Path) -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let uid = text_of(&dashboard["uid"]);
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = format!("{uid}: {}", text_of(&panel["title"]));
            expressions.push((title, filled_in(&target["expr"])));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] != "query" {
            continue;
        }
        let title = format!("{uid}: values of {}", text_of(&variable["name"]));
        let query = filled_in(&variable["query"]["query"]);
        let inner = query.strip_prefix("label_values(").unwrap();
        let (metric, label) = inner.strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
        let selector = match metric.strip_suffix('}') {
            Some(open) => format!("{open}, {label}!=\"\"}}"),
            None => format!("{metric}{{{label}!=\"\"}}"),
        };
        expressions.push((title, selector));
    }
    for mark in dashboard["annotations"]["list"].as_array().unwrap() {
        let title = format!("{uid}: marks of {}", text_of(&mark["name"]));
        // Without an anomaly there is no mark: it is asked for what it compares.
        let expr = filled_in(&mark["expr"]).replace(">= 0.5", ">= 0");
        expressions.push((title, expr));
    }
    expressions
}

/// With values in place of Grafana's variables.
fn filled_in(expr: &Value) -> String {
    let expr = text_of(expr)
        .replace("$__rate_interval", "10s")
        .replace("$__range", "1h")
        .replace("sensor=\"$sensor\"", "sensor=\"C001\"")
        .replace("$sensor", ".*")
        .replace("$group", ".*");
    assert!(!expr.contains('$'), "a variable is left: {expr}");
    expr
}

fn dashboards() -> Vec<std::path::PathBuf> {
    let names = ["fleet", "sensor", "engine", "alerts"];
    names
        .map(|name| package_file(&format!("../dashboards/vigie-{name}.json")))
        .to_vec()
}

/// Names of this engine's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = words.filter(|word| word.starts_with("vigie_"));
    ours.map(family).collect()
}

/// A histogram has several series.
fn family(name: &str) -> String {
    let parts = ["_bucket", "_sum", "_count"];
    let bare = parts.iter().find_map(|part| name.strip_suffix(part));
    bare.unwrap_or(name).to_owned()
}

/// An alert's expression with comparisons as values, so that it says something while all is well, but
/// not if a name or a label in it is wrong.
fn compared(expr: &str) -> String {
    let signs = [" == ", " > ", " < "];
    let shown = signs.iter().fold(expr.to_owned(), |text, sign| {
        text.replace(sign, &format!("{sign}bool "))
    });
    assert_ne!(shown, expr, "it would fire always");
    shown
}

/// The labels that an alert's texts fill in.
fn labels_named(texts: &Value) -> Vec<String> {
    let texts = texts.to_string();
    let rests = texts.split("$labels.").skip(1);
    rests
        .map(|rest| {
            let name = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
            name.collect()
        })
        .collect()
}

/// What each rule asks for is there, with the labels that its texts name; `panels` or another rule
/// use what is recorded. Gives what is wrong, and how many rules there are.
fn check_rules(prometheus: &Prometheus, panels: &str) -> (Vec<String>, usize) {
    let loaded = prometheus.ask("/api/v1/rules");
    let groups = loaded["data"]["groups"].as_array().unwrap().iter();
    let rules: Vec<&Value> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let mut wrong = Vec::new();
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let (name, query) = (text_of(&rule["name"]), text_of(&rule["query"]));
        let expr = if rule["type"] == "recording" {
            let asks = |other: &&Value| text_of(&other["query"]).contains(&name);
            if !panels.contains(&name) && !rules.iter().any(asks) {
                wrong.push(format!("{name} is recorded for nobody"));
            }
            name.clone()
        } else {
            compared(&query)
        };
        match prometheus.samples(&name, &expr) {
            Ok(samples) => wrong.extend(
                labels_named(&rule["annotations"])
                    .iter()
                    .filter(|label| samples.iter().any(|one| !one[label.as_str()].is_string()))
                    .map(|label| format!("{name}: no label {label} in {samples:?}")),
            ),
            Err(error) => wrong.push(error),
        }
    }
    (wrong, rules.len())
}

/// An engine that has all parts that one can have: a broker over TLS, mail, MongoDB.
fn whole(dir: &Path, broker: &Mosquitto, mail: &MailServer, mongo: &MongoServer) -> Engine {
    let [flag, file] = broker.config(dir, "");
    let more = format!(
        "{}[groups.hall]\nsensors = [\"C*\"]\n[mongodb]\nuri = \"{}\"\n",
        fs::read_to_string(&file).unwrap(),
        MongoServer::uri(mongo.addr),
    );
    fs::write(&file, mail.config(PASSWORD, &more)).unwrap();
    let engine = Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", &flag, &file]);
    engine.wait_subscribed();
    engine
}

#[test]
fn every_panel_and_rule_has_data_and_every_metric_a_place() {
    if !is_there("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (Some(broker), Some(mail), Some(mongo)) = (
        Mosquitto::start(dir.path()),
        MailServer::start(dir.path()),
        MongoServer::start(dir.path(), Brand::Ferret),
    ) else {
        return;
    };
    let mut running = whole(dir.path(), &broker, &mail, &mongo);
    let prometheus = Prometheus::start(dir.path(), running.http);
    simulate(
        dir.path(),
        &running.door(),
        "--sensors 3 --rate 150 --duration 8s",
    );
    alarm(&running, "C001");
    Publisher::connect(running.mqtt(), Version::V5).publish(
        "sensors/C001/reading",
        b"not a reading",
        false,
    );
    simulate(
        dir.path(),
        &running.door(),
        "--sensors 3 --rate 150 --duration 8s --boot b",
    );

    let mut panels = String::new();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for file in dashboards() {
        for (panel, expr) in panel_expressions(&file) {
            panels += &expr;
            panels.push('\n');
            asked += 1;
            wrong.extend(prometheus.samples(&panel, &expr).err());
        }
    }
    let (of_rules, rules) = check_rules(&prometheus, &panels);
    wrong.extend(of_rules);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(asked > 60, "{asked} expressions");
    assert_eq!(rules, 21);

    let exported: BTreeSet<String> = running
        .text("/metrics")
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let text = fs::read_to_string(package_file("../dashboards/rules/vigie.yml")).unwrap();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let used = metrics_in(&(panels + &code.collect::<Vec<_>>().join("\n")));
    let unknown: Vec<_> = used.difference(&exported).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    let unused: Vec<_> = exported.difference(&used).collect();
    assert!(unused.is_empty(), "no panel and no rule shows {unused:?}");
    eprintln!(
        "{asked} expressions of panels, {rules} rules, {} metrics",
        exported.len()
    );
    running.process.stop();
}

/// The second way: when the engine itself cannot tell anybody any more.
#[test]
fn when_the_engine_is_gone_somebody_gets_a_mail_from_alertmanager() {
    if !is_there("prometheus") || !is_there("prometheus-alertmanager") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = MailServer::start(dir.path()) else {
        return;
    };
    let address = free();
    let config = format!(
        "global:\n  smtp_smarthost: localhost:{}\n  smtp_from: alertmanager@example.org\n  \
         smtp_auth_username: me@example.org\n  smtp_auth_password: {PASSWORD}\n\
         route:\n  receiver: people\n  group_wait: 1s\n\
         receivers:\n  - name: people\n    email_configs:\n      - to: you@example.org\n        \
         tls_config:\n          ca_file: {}\n",
        server.port,
        server.authority.file.display(),
    );
    let _manager = Manager::start_with(dir.path(), address, &config);
    let mut running = Engine::run(dir.path());
    // Nobody waits for three minutes here.
    let rules = fs::read_to_string(package_file("../dashboards/rules/vigie.yml")).unwrap();
    let hasty = dir.path().join("vigie.yml");
    fs::write(&hasty, rules.replace("for: 3m", "for: 1s")).unwrap();
    let prometheus = Prometheus::start_with(dir.path(), running.http, &hasty, address);
    wait_until("the first scrape", PATIENCE, || {
        match prometheus.query("up == 1") {
            Ok(found) if found.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    running.process.kill();
    let mail = &server.wait_mails(1, PATIENCE)[0];
    assert!(text_of(&mail["subject"]).contains("VigieDown"), "{mail}");
    let html = text_of(&mail["html"]);
    assert!(html.contains("nobody watches over the sensors"), "{html}");
}

/// Windows that are fixed, and why: elsewhere they follow the shown time.
const FIXED_WINDOWS: [(&str, &str); 3] = [
    ("[1h]", "so many per hour is what people ask"),
    ("[7d]", "the budget of false alarms is one of a week"),
    ("[$__range]", "in the shown time"),
];

/// target-rate-interval-rule.
fn check_windows(expr: &str, title: &str) {
    for (at, _) in expr.match_indices('[') {
        let end = at + expr[at..].find(']').unwrap() + 1;
        let window = &expr[at..end];
        let before = expr[..at].rfind('(').map_or("", |open| &expr[..open]);
        let is_rate = before.ends_with("rate");
        let fixed = FIXED_WINDOWS.iter().any(|(known, _)| *known == window);
        let follows = window == "[$__rate_interval]";
        assert!(
            follows || (fixed && !is_rate),
            "{title}: {window} in {expr}"
        );
    }
}

/// The template rules of Grafana's dashboard linter: one data source, chosen by a variable; variables
/// that ask for labels of our metrics, again when the time changes; nothing to be edited.
fn check_template(dashboard: &Value, uid: &str) {
    assert_eq!(dashboard["editable"], false, "{uid}: files are the truth");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let sources = variables.iter().filter(|one| one["type"] == "datasource");
    assert_eq!(sources.count(), 1, "{uid}");
    let source = &variables[0];
    assert_eq!(source["name"], "datasource", "{uid}");
    assert_eq!(source["label"], "Data source", "{uid}");
    assert_eq!(source["query"], "prometheus", "{uid}");
    assert_eq!(source["current"]["value"], "prometheus", "{uid}");
    for variable in &variables[1..] {
        let query = text_of(&variable["query"]["query"]);
        let asked = query
            .strip_prefix("label_values(vigie_")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|rest| rest.rsplit_once(", "));
        assert!(asked.is_some(), "{uid}: {query}");
        assert_eq!(variable["refresh"], 2, "{uid}: {query}: on time change");
        assert_eq!(variable["datasource"]["uid"], "${datasource}", "{uid}");
    }
}

/// What Grafana's dashboard linter asks of a panel: title, description, unit, targets, the data
/// source, counters only as what they grow by, windows that follow the shown time. docs/grafana.md has
/// the table of its rules, with those that are left out.
fn check_panel(panel: &Value, title: &str) {
    let table = panel["type"] == "table";
    let unit = &panel["fieldConfig"]["defaults"]["unit"];
    assert!(table || unit.is_string(), "{title} has no unit");
    let targets = panel["targets"].as_array().unwrap();
    assert!(!targets.is_empty(), "{title} asks for nothing");
    for target in targets {
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        let expr = text_of(&target["expr"]);
        check_windows(&expr, title);
        for (at, _) in expr.match_indices("vigie_") {
            let name = metrics_in(&expr[at..]).into_iter().next();
            let whole: String = expr[at..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let grows = ["_total", "_bucket", "_sum", "_count"];
            if grows.iter().any(|end| whole.ends_with(end)) {
                let before = &expr[..at];
                let counted = before.ends_with("rate(") || before.ends_with("increase(");
                assert!(counted, "{title}: {name:?} is a counter: {expr}");
            }
        }
    }
}

/// Every alert has a heading in the runbook, and every dashboard what Grafana needs without a click.
#[test]
fn alerts_have_headings_and_dashboards_their_data_source() {
    let rules = fs::read_to_string(package_file("../dashboards/rules/vigie.yml")).unwrap();
    let runbook = fs::read_to_string(package_file("../docs/RUNBOOK.md")).unwrap();
    let cases = package_file("../dashboards/rules/tests/rules.yml");
    let cases = fs::read_to_string(cases).unwrap();
    let mut alerts = 0;
    for line in rules.lines() {
        let Some(alert) = line.trim().strip_prefix("- alert: ") else {
            continue;
        };
        alerts += 1;
        assert!(
            runbook.contains(&format!("\n## {alert}\n")),
            "{alert} has no heading"
        );
        let anchor = format!("runbook_url: docs/RUNBOOK.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} has no link");
        let fires = format!("alertname: {alert}\n        exp_alerts:");
        let stays_quiet = format!("alertname: {alert} }}");
        for case in [fires, stays_quiet] {
            assert!(cases.contains(&case), "{alert} has no case {case:?}");
        }
        let rest = rules.split_once(&format!("- alert: {alert}\n")).unwrap().1;
        let own = rest.split("- alert: ").next().unwrap();
        let graded = ["critical", "warning", "info"]
            .iter()
            .any(|severity| own.contains(&format!("severity: {severity}\n")));
        assert!(graded, "{alert} has no severity");
    }
    assert_eq!(alerts, 18);
    for file in dashboards() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("${DS_"), "{}", file.display());
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        check_template(&dashboard, &text_of(&dashboard["uid"]));
        for panel in dashboard["panels"].as_array().unwrap() {
            if panel["type"] == "row" {
                continue;
            }
            let title = text_of(&panel["title"]);
            assert!(!title.is_empty(), "{panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{title}"
            );
            check_panel(panel, &title);
        }
    }
    let provisioned = package_file("../grafana/provisioning/datasources/prometheus.yml");
    let provisioned = fs::read_to_string(provisioned).unwrap();
    assert!(provisioned.contains("uid: prometheus"), "{provisioned}");
}
