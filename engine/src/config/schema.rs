//! Which keys there are. Nothing is listed by hand: a config with every key set is serialised, and
//! that example answers what a key is, whether a value fits it and whether it is secret. Where
//! people choose the name (of a quantity), the example has `*`; of a list it has one element.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Value;
use vigie_actors::config::Span;
use vigie_actors::group;
use vigie_actors::ingest::{broker, listener, payload};
use vigie_actors::quantity;
use vigie_actors::score::maintenance;
use vigie_actors::score::rules::Severity;
use vigie_actors::store::mongo;

use super::{Alertmanager, Config, Email, Http, Webhook, secrets};

/// Stands for a name that people choose.
pub(super) const ANY: &str = "*";

/// Where a key is: section, subsection, name; an index where a list is passed.
pub(super) type Path = Vec<String>;

/// `section.key`, with quotes where TOML needs them.
pub(super) fn dotted(path: &[String]) -> String {
    path.iter()
        .map(|segment| quoted(segment))
        .collect::<Vec<_>>()
        .join(".")
}

/// A key as TOML wants it written.
pub(super) fn quoted(segment: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !segment.is_empty() && segment.bytes().all(bare) {
        segment.to_owned()
    } else {
        Value::String(segment.to_owned()).to_string()
    }
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A key or a section, as in the example.
    Node(&'a Value),
    /// The first so many segments lead to a key, which has nothing below it.
    Above(usize, &'a Value),
    /// Nothing.
    Unknown,
}

/// The keys there are.
#[derive(Debug)]
pub(super) struct Schema {
    example: Value,
}

impl Schema {
    /// From the types.
    pub(super) fn new() -> Self {
        let example = Value::try_from(example()).expect("the types serialise, or no test passes");
        Self { example }
    }

    /// What a setting at `path` is.
    pub(super) fn find(&self, path: &[String]) -> Found<'_> {
        let mut node = &self.example;
        for (depth, segment) in path.iter().enumerate() {
            let Value::Table(table) = node else {
                return Found::Above(depth, node);
            };
            match table.get(segment).or_else(|| table.get(ANY)) {
                Some(child) => node = child,
                None => return Found::Unknown,
            }
        }
        Found::Node(node)
    }

    /// Whether `value` can be at `path`, all else being as in the example.
    ///
    /// # Errors
    /// The deserialiser's words; they may quote the value.
    pub(super) fn fits(&self, path: &[String], value: &Value) -> Result<(), String> {
        let mut config = self.example.clone();
        let Some(place) = step_all(&mut config, path) else {
            return Err("no such key".to_owned());
        };
        *place = value.clone();
        match Config::deserialize(config) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    /// Whether the section or list element around `path` cannot do without it.
    pub(super) fn is_required(&self, path: &[String]) -> bool {
        let mut config = self.example.clone();
        let Some((name, parent)) = path.split_last() else {
            return false;
        };
        if let Some(Value::Table(table)) = step_all(&mut config, parent) {
            table.remove(name);
        }
        Config::deserialize(config).is_err()
    }

    /// Whether the value must not be shown: the example's does not show itself.
    pub(super) fn is_secret(&self, path: &[String]) -> bool {
        let node = path
            .iter()
            .try_fold(&self.example, |node, segment| step(node, segment));
        node.and_then(Value::as_str)
            .is_some_and(secrets::is_redacted)
    }

    /// Secrets that may come from a file: their paths and those of the keys that name the file.
    pub(super) fn twins(&self) -> Vec<(Path, Path)> {
        let with_file = |path: Path| {
            let mut file = path.clone();
            file.last_mut()?.push_str("_file");
            matches!(self.find(&file), Found::Node(_)).then_some((path, file))
        };
        self.keys()
            .into_iter()
            .filter(|path| self.is_secret(path))
            .filter_map(with_file)
            .collect()
    }

    /// Paths of all keys; elements of lists of sections are under `*`.
    pub(super) fn keys(&self) -> Vec<Path> {
        let mut keys = Vec::new();
        collect(&self.example, &mut Vec::new(), &mut keys);
        keys
    }

    /// The key that was probably meant: few letters away, or the same name in another section.
    pub(super) fn nearest(&self, path: &[String]) -> Option<String> {
        let wanted = path.join(".");
        let name = path.last()?;
        let tolerance = if wanted.len() < 9 { 2 } else { 3 };
        let candidates = self.keys().into_iter().flat_map(|key| {
            // An empty section is looked for among sections.
            let section = key[..key.len() - 1].to_vec();
            [key, section]
        });
        candidates
            .filter(|key| !key.is_empty())
            .map(|key| {
                let named = named_like(&key, path);
                let whole = strsim::damerau_levenshtein(&named.join("."), &wanted);
                let moved = named.last().map_or(usize::MAX, |other| {
                    strsim::damerau_levenshtein(other, name).saturating_add(2)
                });
                (whole.min(moved), whole, named)
            })
            .filter(|(distance, _, named)| {
                *distance <= tolerance && !named.iter().any(|segment| segment == ANY)
            })
            .min()
            .map(|(_, _, named)| dotted(&named))
    }
}

/// `key` with the names that `path` has where people choose them.
fn named_like(key: &[String], path: &[String]) -> Path {
    key.iter()
        .enumerate()
        .map(|(at, segment)| match path.get(at) {
            Some(name) if segment == ANY => name.clone(),
            _ => segment.clone(),
        })
        .collect()
}

fn step<'a>(node: &'a Value, segment: &str) -> Option<&'a Value> {
    match node {
        Value::Table(table) => table.get(segment).or_else(|| table.get(ANY)),
        Value::Array(list) => list.first(),
        _ => None,
    }
}

fn step_all<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |node, segment| match node {
        Value::Table(table) => {
            let segment = if table.contains_key(segment) {
                segment
            } else {
                ANY
            };
            table.get_mut(segment)
        }
        Value::Array(list) => list.first_mut(),
        _ => None,
    })
}

fn collect(node: &Value, path: &mut Path, keys: &mut Vec<Path>) {
    match node {
        Value::Table(table) => {
            for (name, child) in table {
                path.push(name.clone());
                collect(child, path, keys);
                path.pop();
            }
        }
        Value::Array(list) if list.first().is_some_and(Value::is_table) => {
            path.push(ANY.to_owned());
            collect(&list[0], path, keys);
            path.pop();
        }
        _ => keys.push(path.clone()),
    }
}

/// A config in which every key is set.
fn example() -> Config {
    let secret = || Some(SecretString::from(""));
    let text = || Some("text".to_owned());
    let file = || Some("/run/secrets/name".into());
    let any_quantity = quantity::Config {
        unit: "ppm".into(),
        min: 0.0,
        max: 5000.0,
        floor: Some(10.0),
        error_codes: vec![65535.0],
    };
    let any_user = listener::User {
        name: "node".into(),
        password_hash: String::new(),
        publish: vec!["sensors/%u/#".into()],
    };
    let any_webhook = Webhook {
        url: SecretString::from("https://example.org/hook"),
        secret: secret(),
        secret_file: file(),
        ca_file: file(),
        severity: Severity::Warn,
        sensors: vec!["C*".into()],
        groups: vec!["hall".into()],
    };
    let any_manager = Alertmanager {
        url: "https://example.org".into(),
        token: secret(),
        token_file: file(),
        ca_file: file(),
        severity: Severity::Warn,
        sensors: vec!["C*".into()],
        groups: vec!["hall".into()],
    };
    let any_group = group::Config {
        sensors: vec!["C*".into()],
    };
    let any_window = maintenance::Config {
        cron: "0 2 * * SUN".into(),
        lasts: Span::secs(3600),
        time_zone: text(),
        sensors: vec!["C*".into()],
        groups: vec!["hall".into()],
    };
    Config {
        listener: listener::Config {
            cert_file: file(),
            key_file: file(),
            client_ca_file: file(),
            users: vec![any_user],
            ..listener::Config::default()
        },
        payload: payload::Config {
            flat: payload::Flat {
                values: BTreeMap::from([(ANY.to_owned(), "key".to_owned())]),
                ..payload::Flat::default()
            },
            ..payload::Config::default()
        },
        quantities: BTreeMap::from([(ANY.to_owned(), any_quantity)]),
        groups: BTreeMap::from([(ANY.to_owned(), any_group)]),
        maintenance: vec![any_window],
        http: Http {
            token: secret(),
            token_file: file(),
            public_url: text(),
            cert_file: file(),
            key_file: file(),
            ..Http::default()
        },
        mongodb: mongo::Config {
            uri: secret(),
            uri_file: file(),
            database: text(),
            ..mongo::Config::default()
        },
        mqtt: broker::Config {
            host: text(),
            ca_file: file(),
            client_cert_file: file(),
            client_key_file: file(),
            username: text(),
            password: secret(),
            password_file: file(),
            client_id: text(),
            ..broker::Config::default()
        },
        email: Email {
            smtp_host: text(),
            smtp_ca_file: file(),
            smtp_user: text(),
            smtp_password: secret(),
            smtp_password_file: file(),
            email_from: text(),
            time_zone: text(),
            ..Email::default()
        },
        webhook: BTreeMap::from([(ANY.to_owned(), any_webhook)]),
        alertmanager: BTreeMap::from([(ANY.to_owned(), any_manager)]),
        ..Config::default()
    }
}
