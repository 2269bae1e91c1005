//! `engine incidents`: what is wrong, and what people do about it. Of a running engine by its API,
//! else in the store itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use vigie_actors::alert::link::Answer;
use vigie_actors::clock::{Clock, SystemClock, rfc3339};
use vigie_actors::config::Span;
use vigie_actors::tls;

use crate::config::Config;
use crate::console::say;
use crate::http::{self, Failure, Query, Wish};
use crate::service::Ground;

/// File in the data directory that says where a running engine is found.
const ADDRESS: &str = "engine.url";

/// What is wanted.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Those that are open; with --all, those that are over as well
    List {
        /// Those that are over as well, newest last
        #[arg(long)]
        all: bool,
    },
    /// Everything about one
    Show {
        /// As in mails and lists
        id: String,
    },
    /// You look after it: no more reminders
    Ack(Doing),
    /// Nothing was wrong: it is over, and the line of its rule rises for its sensor
    FalseAlarm(Doing),
    /// No notices about its sensor or group for a while
    Silence {
        #[command(flatten)]
        doing: Doing,
        /// For how long
        #[arg(long = "for", value_name = "SPAN", default_value = "24h")]
        lasts: Span,
    },
}

/// What is done about one.
#[derive(Debug, Args)]
pub(crate) struct Doing {
    /// As in mails and lists
    id: String,
    /// Who does it
    #[arg(long, value_name = "NAME", env = "USER", default_value = "somebody")]
    by: String,
}

/// Keeps where the engine is found, as long as it runs.
#[derive(Debug)]
pub(crate) struct Address(std::path::PathBuf);

impl Address {
    /// Writes it down.
    pub(crate) fn keep(data_dir: &Path, url: &str) -> std::io::Result<Self> {
        let path = data_dir.join(ADDRESS);
        std::fs::write(&path, format!("{url}\n"))?;
        Ok(Self(path))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // A file that stays leads nowhere, which is told.
        let _stays = std::fs::remove_file(&self.0);
    }
}

/// A running engine, or a store that none has open.
enum Source {
    Engine(Api),
    Store(Box<Ground>),
}

impl Source {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let path = config.data_dir.join(ADDRESS);
        match std::fs::read_to_string(&path) {
            // Not where it is, but who: it may listen on all addresses.
            Ok(url) => {
                let api = Api::new(url.trim().replace("//0.0.0.0:", "//127.0.0.1:"), config);
                if api.is_there() {
                    return Ok(Self::Engine(api));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        Ok(Self::Store(Box::new(Ground::existing(config)?)))
    }

    fn get(&self, path: &str, read: impl FnOnce(&Ground) -> Answered) -> anyhow::Result<Value> {
        match self {
            Self::Engine(api) => api.get(path),
            Self::Store(ground) => Ok(serde_json::from_slice(&told(read(ground))?)?),
        }
    }

    fn one(&self, id: &str) -> anyhow::Result<Value> {
        self.get(&format!("incidents/{}", escaped(id)), |ground| {
            http::incident(&ground.store, &ground.catalogue, id)
        })
    }

    fn answer(&self, doing: &Doing, answer: Answer, lasts: Option<Span>) -> anyhow::Result<Value> {
        match self {
            Self::Engine(api) => {
                let mut body = json!({ "by": doing.by });
                if let Some(lasts) = lasts {
                    body["for"] = json!(lasts.to_string());
                }
                api.post(
                    &format!("incidents/{}/{}", escaped(&doing.id), answer.name()),
                    &body,
                )
            }
            Self::Store(ground) => {
                let mut wish = Wish::new(answer, &doing.by);
                wish.lasts = lasts.unwrap_or(wish.lasts);
                told(wish.order(&ground.store, &doing.id, SystemClock.now_ms()))?;
                say("no engine is running: it will be done when one starts");
                self.one(&doing.id)
            }
        }
    }
}

type Answered = Result<Vec<u8>, Failure>;

fn told<T>(result: Result<T, Failure>) -> anyhow::Result<T> {
    result.map_err(|failure| anyhow!("{}; {}", failure.what, failure.fix))
}

/// A colon has a meaning in some addresses.
fn escaped(id: &str) -> String {
    id.replace(':', "%3A")
}

/// Whom this system trusts, and the certificate that the engine itself shows: it may have signed
/// that itself.
fn trust(cert_file: Option<&Path>) -> TlsConfig {
    let known = [None, cert_file]
        .into_iter()
        .take(if cert_file.is_some() { 2 } else { 1 });
    let known = known.filter_map(|file| tls::root_certificates(file).ok());
    let known: Vec<Certificate<'_>> = known
        .flatten()
        .map(|der| Certificate::from_der(&der).to_owned())
        .collect();
    let roots = RootCerts::new_with_certs(&known);
    TlsConfig::builder().root_certs(roots).build()
}

/// The API of a running engine.
struct Api {
    url: String,
    token: Option<String>,
    agent: ureq::Agent,
}

impl Api {
    fn new(url: String, config: &Config) -> Self {
        let mut agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false);
        if url.starts_with("https") {
            agent = agent.tls_config(trust(config.http.cert_file.as_deref()));
        }
        let agent = agent.build();
        let token = config.http.token.as_ref();
        Self {
            url,
            token: token.map(|token| format!("Bearer {}", token.expose_secret())),
            agent: agent.into(),
        }
    }

    fn is_there(&self) -> bool {
        self.agent.get(format!("{}/livez", self.url)).call().is_ok()
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent.get(format!("{}/api/v1/{path}", self.url));
        let request = match &self.token {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        self.read(request.call())
    }

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent.post(format!("{}/api/v1/{path}", self.url));
        let request = request.header("Content-Type", "application/json");
        let request = match &self.token {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        self.read(request.send(body.to_string()))
    }

    fn read(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let mut answer = answer.with_context(|| format!("the engine at {}", self.url))?;
        let body = answer.body_mut().read_to_string()?;
        let body: Value = serde_json::from_str(&body)
            .with_context(|| format!("what answers at {} is no engine", self.url))?;
        let error = &body["error"];
        if error.is_object() {
            let words = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            bail!("{}; {}", words("what"), words("fix"));
        }
        Ok(body)
    }
}

/// Does it.
pub(crate) fn run(config: &Config, action: Action) -> anyhow::Result<()> {
    let source = Source::of(config)?;
    match action {
        Action::List { all } => list(&source, all),
        Action::Show { id } => {
            say(&account(&source.one(&id)?));
            Ok(())
        }
        Action::Ack(doing) => {
            say(&account(&source.answer(
                &doing,
                Answer::Acknowledge,
                None,
            )?));
            Ok(())
        }
        Action::FalseAlarm(doing) => {
            say(&account(&source.answer(
                &doing,
                Answer::FalseAlarm,
                None,
            )?));
            Ok(())
        }
        Action::Silence { doing, lasts } => {
            say(&account(&source.answer(
                &doing,
                Answer::Silence,
                Some(lasts),
            )?));
            say(&format!("silence for {lasts} from now on"));
            Ok(())
        }
    }
}

fn list(source: &Source, all: bool) -> anyhow::Result<()> {
    let mut cursor: Option<String> = None;
    let mut none = true;
    loop {
        let pairs: Vec<(String, String)> = if all {
            let next = cursor.take().map(|cursor| ("cursor".to_owned(), cursor));
            next.into_iter().collect()
        } else {
            vec![("open".to_owned(), String::new())]
        };
        let query: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let page = source.get(&format!("incidents?{}", query.join("&")), |ground| {
            let query = Query::parse(&pairs, &["open", "cursor"])?;
            http::incidents(&ground.store, &ground.catalogue, &query)
        })?;
        for incident in page["incidents"].as_array().into_iter().flatten() {
            none = false;
            say(&line(incident));
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if none {
        say(if all {
            "there has been no incident"
        } else {
            "nothing is wrong: no incident is open (--all lists those that are over)"
        });
    }
    Ok(())
}

fn text<'a>(incident: &'a Value, key: &str) -> &'a str {
    incident[key].as_str().unwrap_or("–")
}

fn time(value: &Value) -> Option<String> {
    value.as_i64().map(rfc3339)
}

fn line(incident: &Value) -> String {
    let state = match (&incident["resolved"], &incident["acknowledged"]) {
        (Value::Null, Value::Null) => text(incident, "severity").to_owned(),
        (Value::Null, mark) => format!(
            "{}, {} looks after it",
            text(incident, "severity"),
            text(mark, "by")
        ),
        _ => "over".to_owned(),
    };
    let sensors = incident["sensors"].as_array().map_or(0, Vec::len);
    let more = if sensors > 1 {
        format!(" (and {} more)", sensors - 1)
    } else {
        String::new()
    };
    format!(
        "{}  {}  {state}\n    {}{more}: {}",
        text(incident, "id"),
        time(&incident["opened"]).unwrap_or_default(),
        incident["sensor"].as_str().unwrap_or("broker"),
        text(incident, "text"),
    )
}

fn account(incident: &Value) -> String {
    let mut lines = vec![line(incident)];
    let mut put = |label: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("    {label:<14}{value}")));
    };
    put("rule", Some(text(incident, "rule").to_owned()));
    for also in incident["also"].as_array().into_iter().flatten() {
        put("also", also.as_str().map(str::to_owned));
    }
    put("group", incident["group"].as_str().map(str::to_owned));
    let sensors: Vec<&str> = incident["sensors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    put("sensors", (!sensors.is_empty()).then(|| sensors.join(", ")));
    put("anomalies", Some(incident["anomalies"].to_string()));
    put("notices", Some(incident["notices"].to_string()));
    put("over", time(&incident["resolved"]));
    for (label, key) in [
        ("looked after", "acknowledged"),
        ("false alarm", "false_alarm"),
    ] {
        let mark = &incident[key];
        let said = time(&mark["at"]).map(|at| format!("by {}, {at}", text(mark, "by")));
        put(label, said);
    }
    lines.join("\n")
}
