//! The engine's config: one TOML file, with layers over it, checked as a whole before anything
//! starts.
//!
//! Weakest first:
//! 1. built-in defaults;
//! 2. the file named by `--config` (none is looked for: what applies is visible on the command
//!    line);
//! 3. `.env` in the working directory;
//! 4. the environment: `VIGIE__SECTION__KEY`, and `SMTP_USER`, `SMTP_PASSWORD`, `EMAIL_TO`;
//! 5. flags.
//!
//! [`load`] turns each layer into `settings` (path, value, origin), merges them by path, checks each
//! alone against the keys there are (`schema`, `check`), reads secrets from their files (`secrets`),
//! makes a [`Config`] of the rest and lets the sections check themselves. All problems are told at
//! once. No value of a secret gets into an error, a `Debug` or [`Loaded::render`].

mod channels;
mod check;
mod dotenv;
mod email;
mod layers;
mod problem;
mod render;
mod schema;
mod secrets;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};
use vigie_actors::group::Groups;
use vigie_actors::ingest::{broker, listener, payload};
use vigie_actors::score::episodes::Setup;
use vigie_actors::score::maintenance::{self, Calendar};
use vigie_actors::secret::redacted;
use vigie_actors::store::mongo;
use vigie_actors::{group, quantity, score, stats, store};

pub(crate) use channels::{Alertmanager, Webhook};
pub(crate) use email::Email;
pub(crate) use layers::process_env;
pub(crate) use problem::ConfigError;
use problem::Problem;
use schema::Schema;
pub(crate) use settings::Origins;
use settings::Settings;
pub(crate) use validate::without_port;

/// Everything that can be set. The stages' own sections are declared beside the stages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Directory of the store and the mail files; a relative one counts from the working directory.
    #[serde(serialize_with = "readable")]
    pub(crate) data_dir: PathBuf,
    /// The built-in MQTT endpoint.
    pub(crate) listener: listener::Config,
    /// How payloads are written.
    pub(crate) payload: payload::Config,
    /// The rolling baseline of each sensor.
    pub(crate) stats: stats::Config,
    /// When a reading is an anomaly.
    pub(crate) score: score::Config,
    /// When a person hears about it.
    pub(crate) incidents: score::incident::Config,
    /// Sensors that belong together, by name.
    pub(crate) groups: BTreeMap<String, group::Config>,
    /// When nobody wants to hear about it.
    pub(crate) maintenance: Vec<maintenance::Config>,
    /// The embedded store.
    pub(crate) store: store::Config,
    /// Quantities beside temperature and humidity, by name.
    pub(crate) quantities: BTreeMap<String, quantity::Config>,
    /// API, metrics and page.
    pub(crate) http: Http,
    /// What Prometheus gets to see.
    pub(crate) metrics: Metrics,
    /// A MongoDB to copy to.
    pub(crate) mongodb: mongo::Config,
    /// A broker to subscribe at.
    pub(crate) mqtt: broker::Config,
    /// Who is told, and how.
    pub(crate) email: Email,
    /// Programs that are told, by name.
    pub(crate) webhook: BTreeMap<String, Webhook>,
    /// Alertmanagers that are told, by name.
    pub(crate) alertmanager: BTreeMap<String, Alertmanager>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "vigie-data".into(),
            listener: listener::Config::default(),
            payload: payload::Config::default(),
            stats: stats::Config::default(),
            score: score::Config::default(),
            incidents: score::incident::Config::default(),
            groups: BTreeMap::new(),
            maintenance: Vec::new(),
            store: store::Config::default(),
            quantities: BTreeMap::new(),
            http: Http::default(),
            metrics: Metrics::default(),
            mongodb: mongo::Config::default(),
            mqtt: broker::Config::default(),
            email: Email::default(),
            webhook: BTreeMap::new(),
            alertmanager: BTreeMap::new(),
        }
    }
}

/// Section `[http]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Http {
    /// IP address and port. Beyond loopback only with a token.
    pub(crate) addr: SocketAddr,
    /// Bearer token that callers must send, at least 16 characters.
    #[serde(serialize_with = "redacted")]
    pub(crate) token: Option<SecretString>,
    /// File that holds the token.
    pub(crate) token_file: Option<PathBuf>,
    /// Where people find it, for links in mails: scheme and host, perhaps with a port and a path.
    pub(crate) public_url: Option<String>,
    /// Certificate chain (PEM, the engine's own first). With it and `key_file` only HTTPS is spoken.
    /// Read again when the file changes.
    pub(crate) cert_file: Option<PathBuf>,
    /// Private key of that certificate (PEM, no passphrase), not readable for every user.
    pub(crate) key_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
        Self {
            addr,
            token: None,
            token_file: None,
            public_url: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// Section `[metrics]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    /// Sensors with series of their own, 0 to 100,000; the others are in the sums and in the API.
    pub(crate) max_sensor_series: u32,
    /// A sensor's value series end when it has not been heard for this many expected intervals, 1
    /// to 100,000.
    pub(crate) stale_intervals: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            max_sensor_series: 1000,
            stale_intervals: 10,
        }
    }
}

/// What flags put over the other layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--data-dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `--mqtt`, for `listener.addr`.
    pub(crate) mqtt: Option<SocketAddr>,
    /// `--http`, for `http.addr`.
    pub(crate) http: Option<SocketAddr>,
}

/// A config without problems, and where its values come from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What applies.
    pub(crate) config: Config,
    /// By whom it was set.
    pub(crate) origins: Origins,
}

/// Reads all layers. `path` is that of `--config`; `env` is the environment, see [`process_env`];
/// `dotenv` is the path of a `.env` file, which need not exist.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong in any layer; of a file that is no TOML only that.
pub(crate) fn load(
    path: Option<&Path>,
    overrides: &Overrides,
    env: impl Iterator<Item = (String, String)>,
    dotenv: Option<&Path>,
) -> Result<Loaded, ConfigError> {
    let schema = Schema::new();
    let mut settings = Settings::default();
    if let Some(path) = path {
        settings.put_all(layers::file(path)?);
    }
    if let Some(path) = dotenv {
        settings.put_all(layers::dotenv(path, &schema)?);
    }
    settings.put_all(layers::env(env, &schema));
    settings.put_all(layers::flags(overrides));
    let mut loaded = assemble(settings, &schema)?;
    if let Some(dir) = &overrides.data_dir {
        // Exactly as it was given: what is no UTF-8 cannot travel through the settings.
        loaded.config.data_dir.clone_from(dir);
    }
    Ok(loaded)
}

/// Checks the merged settings and makes a config of them.
fn assemble(mut settings: Settings, schema: &Schema) -> Result<Loaded, ConfigError> {
    let mut report = check::settings(&mut settings, schema);
    secrets::resolve(&mut settings, schema, &mut report);
    let (tree, origins) = settings.into_tree();
    let Ok(config) = Config::deserialize(tree) else {
        // Every setting fits alone, so this cannot happen without a problem that is told already.
        report.problems.push(Problem::Whole);
        return Err(ConfigError::new(report.problems));
    };
    for invalid in config.validate() {
        if !report.is_unsure(&invalid.key) {
            let origin = origins.of(&invalid.key);
            report.problems.push(Problem::Invalid { invalid, origin });
        }
    }
    if report.problems.is_empty() {
        Ok(Loaded { config, origins })
    } else {
        Err(ConfigError::new(report.problems))
    }
}

impl Config {
    /// What decides about incidents beside the readings.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            config: self.incidents.clone(),
            groups: Arc::new(Groups::new(&self.groups)),
            calendar: Calendar::new(&self.maintenance),
        }
    }

    /// What is no error, but worth a warning.
    pub(crate) fn remarks(&self) -> Vec<String> {
        self.email.remarks()
    }
}

/// A path as text, as far as it is text.
fn readable<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
