//! The layers, each read into settings.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path as FilePath;

use secrecy::zeroize::Zeroizing;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::problem::{ConfigError, Problem};
use super::schema::{Found, Path, Schema};
use super::settings::{Origin, Setting};
use super::{Overrides, dotenv};

/// Environment variables with this prefix are keys, `__` for each dot.
pub(super) const PREFIX: &str = "VIGIE__";

/// What the Python system called them.
const PYTHON_NAMES: [(&str, [&str; 2]); 3] = [
    ("SMTP_USER", ["email", "smtp_user"]),
    ("SMTP_PASSWORD", ["email", "smtp_password"]),
    ("EMAIL_TO", ["email", "email_to"]),
];

/// A file with more errors than this is probably no TOML at all.
const SYNTAX_ERRORS: usize = 5;

/// The environment of this process. Not `std::env::vars`: that panics at a value that is not UTF-8,
/// and prints it. Here such a value is taken with `\u{fffd}` for what is no text.
pub(crate) fn process_env() -> impl Iterator<Item = (String, String)> {
    let text = |value: OsString| {
        value
            .into_string()
            .unwrap_or_else(|value| value.to_string_lossy().into_owned())
    };
    std::env::vars_os()
        .filter_map(move |(name, value)| Some((name.into_string().ok()?, text(value))))
}

/// The settings of a config file.
pub(super) fn file(path: &FilePath) -> Result<Vec<(Path, Setting)>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| Problem::File {
        path: path.to_owned(),
        problem: format!("cannot read the config file: {error}"),
        fix: if error.kind() == ErrorKind::NotFound {
            "name an existing file with --config, or leave --config out to run on defaults".into()
        } else {
            "make it a UTF-8 text file that the user running the engine may read".into()
        },
    })?;
    // There may be secrets in it that nobody uses.
    let text = Zeroizing::new(text);
    let syntax = |error: &toml::de::Error| {
        let (line, column) = position(&text, error.span().map_or(0, |span| span.start));
        // The error's own Display would quote the line, with whatever secret is on it.
        Problem::Syntax {
            path: path.to_owned(),
            line,
            column,
            problem: format!("not TOML: {}", error.message()),
        }
    };
    let (spans, mut errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        return Err(ConfigError::new(
            errors.iter().take(SYNTAX_ERRORS).map(syntax).collect(),
        ));
    }
    let table: Table = text
        .parse()
        .map_err(|error| ConfigError::from(syntax(&error)))?;
    let lines = Lines { path, text: &text };
    let mut layer = Vec::new();
    flatten(&mut Vec::new(), table, &mut layer, &|at| {
        lines.origin(at, spans.get_ref())
    });
    Ok(layer)
}

/// Finds keys in the text they were read from.
struct Lines<'a> {
    path: &'a FilePath,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, key: &[String], mut table: &DeTable<'_>) -> Origin {
        let mut start = 0;
        for segment in key {
            let Some((name, value)) = table
                .iter()
                .find(|(name, _)| name.get_ref().as_ref() == segment.as_str())
            else {
                break;
            };
            start = name.span().start;
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        Origin::File {
            path: self.path.to_owned(),
            line: position(self.text, start).0,
        }
    }
}

/// Line and column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[start..].chars().count() + 1,
    )
}

/// The settings of a `.env` file; none, if there is no such file.
pub(super) fn dotenv(
    path: &FilePath,
    schema: &Schema,
) -> Result<Vec<(Path, Setting)>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(ConfigError::from(Problem::File {
                path: path.to_owned(),
                problem: format!("cannot read it: {error}"),
                fix: "make it a readable UTF-8 text file, or move it away".into(),
            }));
        }
    };
    let pairs = dotenv::parse(&text).map_err(|line| Problem::Syntax {
        path: path.to_owned(),
        line,
        column: 1,
        problem: "the quote that begins here does not end; close it".into(),
    })?;
    let origin = |name: &str| Origin::DotEnv {
        path: path.to_owned(),
        name: name.to_owned(),
    };
    Ok(variables(pairs.into_iter(), schema, origin))
}

/// The settings of the environment.
pub(super) fn env(
    pairs: impl Iterator<Item = (String, String)>,
    schema: &Schema,
) -> Vec<(Path, Setting)> {
    variables(pairs, schema, |name| Origin::Env(name.to_owned()))
}

fn variables(
    pairs: impl Iterator<Item = (String, String)>,
    schema: &Schema,
    origin: impl Fn(&str) -> Origin,
) -> Vec<(Path, Setting)> {
    let mut general = Vec::new();
    let mut own = Vec::new();
    for (name, text) in pairs {
        let origin = origin(&name);
        if let Some(key) = name.strip_prefix(PREFIX) {
            let mut path: Path = key.split("__").map(str::to_lowercase).collect();
            match value(&path, text, schema) {
                Value::Table(table) => flatten(&mut path, table, &mut own, &|_| origin.clone()),
                value => own.push((path, Setting { value, origin })),
            }
        } else if let Some((_, path)) = PYTHON_NAMES.iter().find(|(python, _)| *python == name)
            // Empty is how these are left out.
            && !text.is_empty()
        {
            let path = path.iter().map(|segment| (*segment).to_owned()).collect();
            general.push((
                path,
                Setting {
                    value: Value::String(text),
                    origin,
                },
            ));
        }
    }
    // Names that say for whom they are come last, hence win.
    general.append(&mut own);
    general
}

/// A TOML value if it is one and fits, else text. Secrets are text always, as they are.
fn value(path: &[String], text: String, schema: &Schema) -> Value {
    if schema.is_secret(path) {
        return Value::String(text);
    }
    let fits = |value: &Value| match schema.find(path) {
        // What is wrong inside of it is told by key.
        Found::Node(node) if node.is_table() || node.is_array() => value.same_type(node),
        Found::Node(_) => schema.fits(path, value).is_ok(),
        Found::Above(..) | Found::Unknown => false,
    };
    text.parse()
        .ok()
        .filter(fits)
        .unwrap_or(Value::String(text))
}

/// What the flags set.
pub(super) fn flags(overrides: &Overrides) -> Vec<(Path, Setting)> {
    let data_dir = overrides
        .data_dir
        .as_ref()
        .map(|dir| dir.display().to_string());
    let mqtt = overrides.mqtt.map(|addr| addr.to_string());
    let http = overrides.http.map(|addr| addr.to_string());
    [
        (vec!["data_dir"], "--data-dir", data_dir),
        (vec!["listener", "addr"], "--mqtt", mqtt),
        (vec!["http", "addr"], "--http", http),
    ]
    .into_iter()
    .filter_map(|(path, flag, text)| {
        let setting = Setting {
            value: Value::String(text?),
            origin: Origin::Flag(flag),
        };
        Some((path.into_iter().map(str::to_owned).collect(), setting))
    })
    .collect()
}

/// Makes settings of a table's values.
fn flatten(
    path: &mut Path,
    table: Table,
    layer: &mut Vec<(Path, Setting)>,
    origin: &dyn Fn(&[String]) -> Origin,
) {
    if table.is_empty() && !path.is_empty() {
        let setting = Setting {
            value: Value::Table(table),
            origin: origin(path),
        };
        layer.push((path.clone(), setting));
        return;
    }
    for (name, value) in table {
        path.push(name);
        match value {
            Value::Table(inner) => flatten(path, inner, layer, origin),
            value => layer.push((
                path.clone(),
                Setting {
                    value,
                    origin: origin(path),
                },
            )),
        }
        path.pop();
    }
}
