//! Checks each setting alone: is there such a key, does the value fit it, is something missing
//! beside it. What does not pass is taken out, so that the rest can be checked as a whole.

use std::collections::BTreeSet;

use toml::{Table, Value};
use vigie_actors::config::Invalid;

use super::problem::Problem;
use super::schema::{ANY, Found, Path, Schema, dotted};
use super::settings::{Origin, Settings};
use vigie_actors::secret::REDACTED;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// In the order they are told.
    pub(super) problems: Vec<Problem>,
    sections: BTreeSet<String>,
}

impl Report {
    /// A value in the section of `path` is not known: what the section says of itself is void.
    pub(super) fn unsure(&mut self, path: &[String]) {
        self.sections.extend(path.first().cloned());
    }

    /// Whether a value in the section of `key` is not known.
    pub(super) fn is_unsure(&self, key: &str) -> bool {
        key.split('.')
            .next()
            .is_some_and(|section| self.sections.contains(section))
    }

    fn wrong(&mut self, path: &[String], invalid: Invalid, origin: &Origin) {
        self.unsure(path);
        self.problems.push(Problem::Invalid {
            invalid,
            origin: origin.clone(),
        });
    }
}

/// Checks all settings and removes those with problems.
pub(super) fn settings(settings: &mut Settings, schema: &Schema) -> Report {
    let mut report = Report::default();
    let mut bad: Vec<Path> = Vec::new();
    for (path, setting) in settings.iter() {
        let told = report.problems.len();
        one(path, &setting.value, &setting.origin, schema, &mut report);
        if report.problems.len() > told {
            bad.push(path.clone());
        }
    }
    bad.extend(incomplete(settings, schema, &mut report));
    for path in bad {
        settings.remove_all(&path);
    }
    report
}

fn one(path: &[String], value: &Value, origin: &Origin, schema: &Schema, report: &mut Report) {
    match schema.find(path) {
        Found::Unknown => report.problems.push(Problem::Unknown {
            key: dotted(path),
            nearest: schema.nearest(path),
            origin: origin.clone(),
        }),
        Found::Above(depth, node) => {
            let path = &path[..depth];
            let table = Value::Table(Table::new());
            let invalid = wrong_type(path, node, &table, schema);
            report.wrong(path, invalid, origin);
        }
        Found::Node(Value::Table(_)) if value.is_table() => {}
        Found::Node(Value::Array(example)) if example.first().is_some_and(Value::is_table) => {
            list(path, example, value, origin, schema, report);
        }
        Found::Node(node) => leaf(path, node, value, origin, schema, report),
    }
}

fn leaf(
    path: &[String],
    node: &Value,
    value: &Value,
    origin: &Origin,
    schema: &Schema,
    report: &mut Report,
) {
    let integer_for_float = node.is_float() && value.is_integer();
    if !value.same_type(node) && !integer_for_float {
        report.wrong(path, wrong_type(path, node, value, schema), origin);
    } else if let Err(problem) = schema.fits(path, value) {
        // The type is right, so this is no secret: they take any text.
        let shown = shown(path, value, schema);
        let invalid = Invalid::new(&dotted(path), shown, in_words(problem), like(path, node));
        report.wrong(path, invalid, origin);
    }
}

/// A list of sections: each key of each element, as if it were a key of the config.
fn list(
    path: &[String],
    example: &[Value],
    value: &Value,
    origin: &Origin,
    schema: &Schema,
    report: &mut Report,
) {
    let Value::Array(elements) = value else {
        let node = Value::Array(example.to_vec());
        report.wrong(path, wrong_type(path, &node, value, schema), origin);
        return;
    };
    for (index, element) in elements.iter().enumerate() {
        let path = [path, &[index.to_string()]].concat();
        let (Value::Table(keys), Some(element)) = (&example[0], element.as_table()) else {
            report.wrong(
                &path,
                wrong_type(&path, &example[0], element, schema),
                origin,
            );
            continue;
        };
        for (name, value) in element {
            let path = [path.as_slice(), std::slice::from_ref(name)].concat();
            match keys.get(name) {
                Some(node) => leaf(&path, node, value, origin, schema, report),
                None => report.problems.push(Problem::Unknown {
                    key: dotted(&path),
                    nearest: schema.nearest(&path),
                    origin: origin.clone(),
                }),
            }
        }
        let there = |name: &String| element.contains_key(name);
        missing(&path, keys, there, origin, schema, report);
    }
}

/// Sections whose names people choose have keys that must be there. Returns the paths of those
/// that lack one.
fn incomplete(settings: &Settings, schema: &Schema, report: &mut Report) -> Vec<Path> {
    let mut seen = BTreeSet::new();
    let mut bad = Vec::new();
    for (path, setting) in settings.iter() {
        for depth in 1..=path.len() {
            let (Found::Node(Value::Table(parent)), Found::Node(Value::Table(keys))) =
                (schema.find(&path[..depth - 1]), schema.find(&path[..depth]))
            else {
                continue;
            };
            let section = path[..depth].to_vec();
            let is_none = depth == path.len() && !setting.value.is_table();
            if !parent.contains_key(ANY) || is_none || !seen.insert(section.clone()) {
                continue;
            }
            let there = |name: &String| {
                let key = [section.as_slice(), std::slice::from_ref(name)].concat();
                settings.iter().any(|(path, _)| path.starts_with(&key))
            };
            let told = report.problems.len();
            missing(&section, keys, there, &setting.origin, schema, report);
            if report.problems.len() > told {
                bad.push(section);
            }
        }
    }
    bad
}

fn missing(
    section: &[String],
    keys: &Table,
    there: impl Fn(&String) -> bool,
    origin: &Origin,
    schema: &Schema,
    report: &mut Report,
) {
    for (name, node) in keys {
        let path = [section, std::slice::from_ref(name)].concat();
        if !there(name) && schema.is_required(&path) {
            let invalid = Invalid::new(&dotted(&path), "(nothing)", "required", like(&path, node));
            report.wrong(&path, invalid, origin);
        }
    }
}

fn wrong_type(path: &[String], node: &Value, value: &Value, schema: &Schema) -> Invalid {
    let problem = format!("expected {}, found {}", kind(node), kind(value));
    // In place of a section there may be anything, a secret too.
    let shown = if is_section(node) {
        "…".to_owned()
    } else {
        shown(path, value, schema)
    };
    Invalid::new(&dotted(path), shown, problem, like(path, node))
}

/// Whether it is a section, or a list of them.
fn is_section(node: &Value) -> bool {
    node.as_array()
        .and_then(|list| list.first())
        .unwrap_or(node)
        .is_table()
}

/// A value as it may be shown.
fn shown(path: &[String], value: &Value, schema: &Schema) -> String {
    match value {
        _ if schema.is_secret(path) => REDACTED.to_owned(),
        // Whatever is in there may be secret.
        Value::Table(_) => "{…}".to_owned(),
        Value::Array(list)
            if list
                .iter()
                .any(|element| element.is_table() || element.is_array()) =>
        {
            "[…]".to_owned()
        }
        value => value.to_string(),
    }
}

/// The deserialiser names the types of Rust, which are not the reader's.
fn in_words(problem: String) -> String {
    let ranges = [
        ("u16", u64::from(u16::MAX)),
        ("u32", u64::from(u32::MAX)),
        ("u64", u64::MAX),
    ];
    for (name, largest) in ranges {
        if problem.ends_with(&format!("expected {name}")) {
            return format!("not a whole number from 0 to {largest}");
        }
    }
    problem
}

/// What kind of value it is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(list) if list.first().is_some_and(Value::is_table) => "a list of sections",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

/// The fix: the key with a value that works.
fn like(path: &[String], node: &Value) -> String {
    match node {
        Value::Table(_) => format!("write it as a section, [{}]", dotted(path)),
        Value::Array(list) if list.first().is_some_and(Value::is_table) => {
            format!("write each as a section, [[{}]]", dotted(path))
        }
        Value::String(text) if super::secrets::is_redacted(text) => {
            "write it as text in quotes".to_owned()
        }
        node => format!("write for instance {node}"),
    }
}
