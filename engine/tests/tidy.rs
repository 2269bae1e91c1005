//! Checks of the repository itself: who may import whom, where each foreign crate lives, what no
//! file may contain. They read the files as text, so they hold for code that is not compiled too.
//!
//! Every rule is a row of a table below. To move a crate's home or add a member, change its row.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Value;

/// Each member and the members it may name in its Cargo.toml: those below it. A member that does
/// not exist yet is not asked about.
const MEMBERS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("forest", &[]),
    ("actors", &["wire", "forest"]),
    ("engine", &["wire", "actors"]),
    ("firmware", &["wire"]),
];

/// Each foreign crate and the files that may name it. `x/` is everything below x, `x/**/y.rs` every
/// y.rs below x.
const HOMES: &[(&str, &[&str])] = &[
    (
        "actix",
        &[
            "actors/src/**/actor.rs",
            "actors/src/supervise.rs",
            "actors/src/message.rs",
            "actors/src/pipeline.rs",
            "engine/src/service.rs",
        ],
    ),
    (
        "mqtt_protocol_core",
        &["actors/src/ingest/listener.rs", "engine/src/simulate/"],
    ),
    (
        "tokio_rustls",
        &[
            "actors/src/ingest/listener.rs",
            "engine/src/http.rs",
            "engine/src/simulate/",
        ],
    ),
    (
        "rumqttc",
        &["actors/src/ingest/broker.rs", "actors/src/ingest/broker/"],
    ),
    (
        "fjall",
        &["actors/src/store/embedded.rs", "actors/src/store/embedded/"],
    ),
    (
        "mongodb",
        &["actors/src/store/mongo.rs", "actors/src/store/mongo/"],
    ),
    (
        "lettre",
        &["actors/src/alert/mail.rs", "actors/src/alert/mail/"],
    ),
    (
        "ureq",
        &["actors/src/alert/endpoint.rs", "engine/src/incidents.rs"],
    ),
    (
        "prometheus",
        &[
            "actors/src/metrics.rs",
            "actors/src/metrics/",
            "engine/src/http.rs",
            "engine/src/http/",
            "engine/src/service.rs",
        ],
    ),
    ("warp", &["engine/src/http.rs", "engine/src/http/"]),
    ("x509_parser", &["actors/src/tls.rs"]),
    (
        "clap",
        &[
            "engine/src/main.rs",
            "engine/src/cli.rs",
            "engine/src/export.rs",
            "engine/src/import.rs",
            "engine/src/incidents.rs",
            "engine/src/ledger.rs",
            "engine/src/simulate/command.rs",
        ],
    ),
    (
        "toml",
        &[
            "engine/src/config.rs",
            "engine/src/config/",
            "wire/src/node/file.rs",
        ],
    ),
    ("anyhow", &["engine/src/"]),
];

/// A layer inside `actors`, and what is outside of it.
struct Layer {
    name: &'static str,
    files: &'static [&'static str],
    /// Foreign paths that its files do not name.
    foreign: &'static [&'static str],
    /// Names of this crate that its files do not import.
    ours: &'static [&'static str],
    remedy: &'static str,
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "pure",
        files: &[
            "actors/src/stats/channel.rs",
            "actors/src/stats/hearing.rs",
            "actors/src/stats/season.rs",
            "actors/src/stats/sketch.rs",
            "actors/src/stats/window.rs",
            "actors/src/stats/recent.rs",
            "actors/src/stats/state.rs",
            "actors/src/stats/share.rs",
            "actors/src/score/rules.rs",
            "actors/src/score/forest.rs",
            "actors/src/score/incident.rs",
            "actors/src/score/episodes.rs",
            "actors/src/score/maintenance.rs",
            "actors/src/score/peers.rs",
            "actors/src/score/scorer.rs",
            "actors/src/ingest/batcher.rs",
            "actors/src/ingest/payload.rs",
            "actors/src/ingest/acl.rs",
            "actors/src/alert/text.rs",
            "actors/src/alert/letter.rs",
            "actors/src/alert/link.rs",
            "actors/src/alert/report.rs",
            "actors/src/alert/route.rs",
            "actors/src/alert/budget.rs",
            "actors/src/alert/chart.rs",
            "actors/src/group.rs",
            "actors/src/quantity.rs",
            "actors/src/reading.rs",
            "actors/src/store/hourly.rs",
            "actors/src/store/outlook.rs",
            "actors/src/store/outgoing.rs",
        ],
        foreign: &[
            "actix",
            "tokio",
            "tracing",
            "std::env",
            "std::fs",
            "std::io",
            "std::net",
            "std::process",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
        ],
        ours: &[
            "SystemClock",
            "actor",
            "broker",
            "embedded",
            "intake",
            "listener",
            "mail",
            "message",
            "metrics",
            "mongo",
            "pipeline",
            "supervise",
        ],
        remedy: "pure logic gets times and data as arguments and returns what is to be done: do \
                 this in the stage's actor.rs or its edge, or move the type that both need here",
    },
    Layer {
        name: "edge",
        files: &[
            "actors/src/ingest/bounds.rs",
            "actors/src/ingest/broker.rs",
            "actors/src/ingest/broker/client.rs",
            "actors/src/ingest/broker/explain.rs",
            "actors/src/ingest/decode.rs",
            "actors/src/ingest/intake.rs",
            "actors/src/ingest/listener.rs",
            "actors/src/ingest/listener/config.rs",
            "actors/src/store/embedded.rs",
            "actors/src/store/embedded/files.rs",
            "actors/src/store/embedded/keeping.rs",
            "actors/src/store/mongo.rs",
            "actors/src/store/room.rs",
            "actors/src/store/mongo/copied.rs",
            "actors/src/store/mongo/document.rs",
            "actors/src/store/mongo/old.rs",
            "actors/src/store/mongo/trouble.rs",
            "actors/src/alert/mail.rs",
            "actors/src/alert/mail/smtp.rs",
            "actors/src/secret.rs",
            "actors/src/tls.rs",
        ],
        foreign: &["actix"],
        ours: &["actor", "message", "pipeline", "supervise"],
        remedy: "an edge knows its client and the pure types, never the actor that owns it: take \
                 what is needed as an argument",
    },
];

/// What a file may import although its layer may not.
const LAYER_EXCEPTIONS: &[(&str, &str)] = &[
    // A batch is made of deliveries.
    ("actors/src/ingest/batcher.rs", "intake"),
];

/// Homes that wait for their code. Every other file named above must exist.
const NOT_YET: &[&str] = &[];

/// Names that appear nowhere in a member's src, tests there included.
const BANNED: &[(&str, &str)] = &[
    (
        "do_send",
        "it ignores the mailbox bound: use try_send, or send().await",
    ),
    (
        "SyncArbiter",
        "its queue is unbounded and a panic kills a worker: use an Arbiter or spawn_blocking",
    ),
    (
        "ResponseFuture",
        "it has no backpressure: answer with AtomicResponse",
    ),
    (
        "ResponseActFuture",
        "it has no backpressure: answer with AtomicResponse",
    ),
];

/// Macros that stand for code that is not there.
const UNFINISHED: &[&str] = &["todo", "unimplemented"];

/// Marks in comments that stand for the same.
const UNFINISHED_MARKS: &[&str] = &[concat!("FIX", "ME")];

/// Where somebody's machine shows. A path that only ends like this (`docs/home/`) is none.
const MACHINE_PATHS: &[&str] = &[
    concat!("/", "root/"),
    concat!("/", "home/"),
    concat!("/", "work/"),
    concat!("/", "Users/"),
];

/// Where metrics are registered.
const METRIC_SOURCES: &[&str] = &[
    "actors/src/metrics.rs",
    "actors/src/metrics/",
    "engine/src/",
];

/// What speaks of metrics.
const METRIC_READERS: &[&str] = &["README.md", "docs/", "dashboards/", "prometheus.yml"];

/// Value metrics of quantities get their names at run time: `vigie_sensor_<quantity>_<unit>`. These
/// are the built-in quantities and the one that the documentation takes for its example.
const METRICS_BUILT_AT_RUN_TIME: &[&str] = &[
    "vigie_sensor_temperature_celsius",
    "vigie_sensor_humidity_ratio",
    "vigie_sensor_temperature_band_celsius",
    "vigie_sensor_humidity_band_ratio",
    "vigie_sensor_co2_ppm",
];

/// What Prometheus adds to a histogram's name.
const HISTOGRAM_SUFFIXES: &[&str] = &["_bucket", "_sum", "_count"];

/// Directories that hold no source. Hidden ones are skipped too, but for `HIDDEN`.
const NOT_SOURCE: &[&str] = &["target", "vigie-data", "node_modules"];
const HIDDEN: &[&str] = &[".cargo", ".ci", ".github"];

#[test]
fn members_import_only_what_is_below_them() {
    let mut found = Vec::new();
    let names: Vec<(String, &str)> = MEMBERS
        .iter()
        .filter_map(|(member, _)| Some((package(member)?, *member)))
        .collect();
    for member in members() {
        if !MEMBERS.iter().any(|(row, _)| *row == member) {
            let line = line_with(&read("Cargo.toml"), &format!("\"{member}\""));
            found.push(format!("Cargo.toml:{line}: {member} has no row in MEMBERS"));
        }
    }
    for (member, below) in MEMBERS {
        let path = format!("{member}/Cargo.toml");
        if !root().join(&path).exists() {
            continue;
        }
        for dependency in dependencies(&manifest(&path)) {
            let Some((_, inner)) = names.iter().find(|(name, _)| *name == dependency) else {
                continue;
            };
            if !below.contains(inner) {
                let line = line_with(&read(&path), &dependency);
                found.push(format!("{path}:{line}: {member} must not import {inner}"));
            }
        }
    }
    assert_none(
        &found,
        "move the code to the member that may have it; MEMBERS in tidy.rs has the order",
    );
}

#[test]
fn members_take_the_lints_of_the_workspace() {
    let mut found = Vec::new();
    for member in members() {
        let path = format!("{member}/Cargo.toml");
        let inherits = manifest(&path)
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(Value::as_bool);
        if inherits != Some(true) {
            let line = line_with(&read(&path), "[lints");
            found.push(format!("{path}:{line}: the workspace's lints are not on"));
        }
    }
    assert_none(&found, "write `[lints]` and below it `workspace = true`");
}

#[test]
fn each_foreign_crate_stays_at_home() {
    let sources = sources();
    let mut found = Vec::new();
    for (name, homes) in HOMES {
        let strangers = sources
            .iter()
            .filter(|source| !homes.iter().any(|home| is_at(home, &source.path)));
        for source in strangers {
            for (line, path) in paths(&source.live()) {
                if path.first() == Some(name) {
                    found.push(format!(
                        "{}:{line}: {} is used; {name} lives in {}",
                        source.path,
                        path.join("::"),
                        homes.join(", "),
                    ));
                }
            }
        }
    }
    assert_none(
        &found,
        "put the call behind a function or type of a home of the crate",
    );
}

#[test]
fn the_layers_of_actors_point_inwards() {
    let mut found = Vec::new();
    for layer in LAYERS {
        for file in layer.files.iter().filter(|file| exists(file)) {
            let source = Source::read(file);
            for (line, path) in paths(&source.live()) {
                if let Some(out) = outside(layer, file, &path) {
                    found.push(format!(
                        "{file}:{line}: {} is outside of the {} layer ({out}): {}",
                        path.join("::"),
                        layer.name,
                        layer.remedy,
                    ));
                }
            }
        }
    }
    assert_none(&found, "see the remedy on each line");
}

#[test]
fn the_files_of_the_rules_exist() {
    let files: Vec<String> = sources().into_iter().map(|source| source.path).collect();
    let rules = HOMES
        .iter()
        .map(|(_, homes)| *homes)
        .chain(LAYERS.iter().map(|layer| layer.files));
    let mut found = Vec::new();
    for rule in rules {
        let here = |home: &str| files.iter().any(|file| is_at(home, file));
        let waits = |home: &str| NOT_YET.contains(&home);
        if !rule.iter().any(|home| here(home) || waits(home)) {
            found.push(format!("engine/tests/tidy.rs: none of {rule:?} exists"));
        }
    }
    let named = LAYERS.iter().flat_map(|layer| layer.files);
    for file in named.filter(|file| !NOT_YET.contains(file) && !exists(file)) {
        let line = line_with(&read("engine/tests/tidy.rs"), file);
        found.push(format!("engine/tests/tidy.rs:{line}: {file} is gone"));
    }
    for file in NOT_YET.iter().filter(|file| exists(file)) {
        let line = line_with(&read("engine/tests/tidy.rs"), "const NOT_YET");
        found.push(format!(
            "engine/tests/tidy.rs:{line}: {file} is here: take it out of NOT_YET"
        ));
    }
    assert_none(
        &found,
        "a renamed file takes its rule along: mend the table",
    );
}

#[test]
fn nothing_unbounded_is_used() {
    let mut found = Vec::new();
    for source in sources() {
        for token in tokens(&source.code) {
            if let Some((name, remedy)) = BANNED.iter().find(|(name, _)| *name == token.text) {
                found.push(format!("{}:{}: {name}: {remedy}", source.path, token.line));
            }
        }
    }
    assert_none(&found, "see the remedy on each line");
}

#[test]
fn every_source_file_says_what_it_is_for_and_is_finished() {
    let mut found = Vec::new();
    for path in files().iter().filter(|path| has_extension(path, "rs")) {
        let source = Source::read(path);
        if !source.text.starts_with("//! ") {
            found.push(format!(
                "{path}:1: open with `//!` and what the file is for"
            ));
        }
        for (line, what) in unfinished(&source) {
            found.push(format!("{path}:{line}: {what}: finish it or take it out"));
        }
    }
    assert_none(&found, "see the remedy on each line");
}

#[test]
fn no_file_speaks_of_somebodys_machine() {
    let mut found = Vec::new();
    for path in files() {
        // What is not text has no lines to read.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (line, machine) in machine_paths(&text) {
            found.push(format!("{path}:{line}: a path below {machine}"));
        }
    }
    assert_none(
        &found,
        "name it relative to the repository, or by a variable or option",
    );
}

#[test]
fn metrics_that_the_documentation_names_exist() {
    let sources = sources();
    let mut registered: Vec<&str> = METRICS_BUILT_AT_RUN_TIME.to_vec();
    let live: Vec<String> = sources
        .iter()
        .filter(|source| METRIC_SOURCES.iter().any(|home| is_at(home, &source.path)))
        .map(Source::live_strings)
        .collect();
    registered.extend(
        live.iter()
            .flat_map(|text| metric_names(text))
            .map(|(_, name)| name),
    );
    // A format string gives only the beginning of a name.
    registered.retain(|name| !name.ends_with('_'));
    assert!(
        registered.len() > METRICS_BUILT_AT_RUN_TIME.len(),
        "no metric is registered in {METRIC_SOURCES:?}: has their home moved?"
    );

    let mut found = Vec::new();
    let readers = files();
    let readers = readers
        .iter()
        .filter(|path| METRIC_READERS.iter().any(|home| is_at(home, path)));
    for path in readers {
        let Ok(text) = fs::read_to_string(root().join(path)) else {
            continue;
        };
        for (line, name) in metric_names(&text) {
            if !is_metric(name, &registered) {
                found.push(format!("{path}:{line}: no metric is called {name}"));
            }
        }
    }
    assert_none(
        &found,
        "correct the name, or register the metric in actors/src/metrics.rs",
    );
}

#[test]
fn code_is_told_from_comments_strings_and_tests() {
    let source = Source::new(
        "x.rs",
        r##"//! actix::a
use ::fjall::{self, config::{Policy as P, *}};
/* lettre::a /* nested */ lettre::b */
fn f<'a>(q: &'a str) -> char { let _ = (r#"warp::"x"# , "\"clap::x", b'"'); '"' }
#[warp::x] fn g() { crate::prometheus::x(); Vec::<toml::Value>::new(); }
extern crate anyhow; use {rumqttc, tracing::info};
#[cfg(test)]
mod tests { use mongodb::x; fn f() { "}"; } }
fn after() { tokio::spawn(1) }
"##,
    );
    let found: Vec<(usize, String)> = paths(&source.live())
        .iter()
        .map(|(line, path)| (*line, path.join("::")))
        .collect();
    let expected = [
        (2, "fjall"),
        (2, "fjall::config::Policy"),
        (2, "fjall::config::*"),
        (5, "warp::x"),
        (5, "crate::prometheus::x"),
        (5, "toml::Value"),
        (6, "anyhow"),
        (6, "rumqttc"),
        (6, "tracing::info"),
        (9, "tokio::spawn"),
    ];
    assert_eq!(
        found,
        expected.map(|(line, path)| (line, path.to_owned())),
        "{}",
        source.live()
    );
    let strings = source.live_strings();
    let strings: Vec<&str> = strings.split_whitespace().collect();
    assert_eq!(strings, ["warp::\"x", "\\\"clap::x", "\"", "\""]);
}

#[test]
fn test_modules_in_files_are_told_from_code() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod probe {}\nmod other;\n";
    for (file, module) in [
        ("a/src/http.rs", "a/src/http/tests"),
        ("a/src/http/mod.rs", "a/src/http/tests"),
        ("a/src/lib.rs", "a/src/tests"),
    ] {
        assert_eq!(Source::new(file, text).test_files(), [module], "{file}");
        assert!(in_module(&format!("{module}.rs"), module));
        assert!(in_module(&format!("{module}/secret.rs"), module));
        assert!(!in_module(&format!("{module}_too.rs"), module));
    }
}

#[test]
fn what_leaves_a_layer_is_found() {
    let pure = &LAYERS[0];
    let check = |path: &str, out: bool| {
        let segments: Vec<&str> = path.split("::").collect();
        let file = "actors/src/ingest/batcher.rs";
        assert_eq!(outside(pure, file, &segments).is_some(), out, "{path}");
    };
    check("tokio::sync::mpsc", true);
    check("std::time::Instant::now", true);
    check("std::time", true);
    check("std::time::*", true);
    check("std::time::Duration", false);
    check("std::collections::HashMap", false);
    check("super::listener::Decode", true);
    check("super::intake::Delivery", false);
    check("crate::clock::SystemClock", true);
    check("crate::clock::rfc3339", false);
}

#[test]
fn what_is_not_finished_is_found() {
    let mark = UNFINISHED_MARKS[0];
    let text = format!(
        "//! x\n// {mark}\nfn f() {{ {}!() }}\n#[{}]\n",
        "todo", "ignore"
    );
    let found = unfinished(&Source::new("x.rs", &text));
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 4]);
}

#[test]
fn paths_of_machines_are_found() {
    for path in MACHINE_PATHS {
        for (before, found) in [
            ("", true),
            ("x\n\"", true),
            ("file://", true),
            ("=", true),
            ("docs", false),
            ("https://example.org", false),
            ("..", false),
            ("~", false),
        ] {
            let text = format!("{before}{path}x");
            assert_eq!(!machine_paths(&text).is_empty(), found, "{text}");
        }
    }
}

#[test]
fn names_of_metrics_are_found_and_known() {
    let text = "`vigie_a_total`, my_vigie_b, vigie_wire::decode,\nrate(vigie_c_seconds_bucket[5m])\
                vigie_d_* vigie_actors";
    let names: Vec<&str> = metric_names(text).iter().map(|(_, name)| *name).collect();
    assert_eq!(
        names,
        ["vigie_a_total", "vigie_c_seconds_bucket", "vigie_d_"]
    );
    let registered = ["vigie_a_total", "vigie_c_seconds", "vigie_d_x"];
    for (name, known) in [
        ("vigie_a_total", true),
        ("vigie_a", false),
        ("vigie_c_seconds_bucket", true),
        ("vigie_c_seconds_", false),
        ("vigie_d_", true),
        ("vigie_e_", false),
    ] {
        assert_eq!(is_metric(name, &registered), known, "{name}");
    }
}

/// Fails with every finding, one per line, and what to do.
fn assert_none(found: &[String], remedy: &str) {
    assert!(
        found.is_empty(),
        "{} to mend:\n\n{}\n\nWhat to do: {remedy}\n",
        found.len(),
        found.join("\n")
    );
}

// ---- The repository ----

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

fn read(path: &str) -> String {
    let text = fs::read_to_string(root().join(path));
    assert!(text.is_ok(), "{path}: {text:?}");
    text.unwrap_or_default()
}

fn manifest(path: &str) -> Value {
    toml::from_str(&read(path)).expect("cargo reads it too")
}

/// The members that the workspace names.
fn members() -> Vec<String> {
    let workspace = manifest("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array();
    let members = members.expect("the workspace has members");
    let names = members.iter().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// The package name of a member, if it is there.
fn package(member: &str) -> Option<String> {
    let path = format!("{member}/Cargo.toml");
    let manifest = exists(&path).then(|| manifest(&path))?;
    // A workspace of its own has none.
    let name = manifest.get("package")?["name"].as_str();
    name.map(str::to_owned)
}

/// The packages that a manifest depends on: for the library, tests, build scripts and targets.
fn dependencies(manifest: &Value) -> Vec<String> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let places = targets.into_iter().flat_map(|table| table.values());
    let mut names = Vec::new();
    for place in places.chain([manifest]) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in place
                .get(kind)
                .and_then(Value::as_table)
                .into_iter()
                .flatten()
            {
                let renamed = value.get("package").and_then(Value::as_str);
                names.push(renamed.unwrap_or(key).to_owned());
            }
        }
    }
    names
}

/// Every file of the repository, from its root, with `/` between.
fn files() -> Vec<String> {
    let mut files = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(root().join(&directory)).expect("a directory");
        for entry in entries.map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{directory}{name}");
            if entry.file_type().expect("a kind").is_dir() {
                let hidden = name.starts_with('.') && !HIDDEN.contains(&&*name);
                if !hidden && !NOT_SOURCE.contains(&&*name) {
                    directories.push(format!("{path}/"));
                }
            } else if !name.starts_with(".env") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The members' code: what is below their src and is not a test.
fn sources() -> Vec<Source> {
    let homes: Vec<String> = members()
        .iter()
        .map(|name| format!("{name}/src/"))
        .collect();
    let sources: Vec<Source> = files()
        .iter()
        .filter(|path| has_extension(path, "rs") && homes.iter().any(|home| is_at(home, path)))
        .map(|path| Source::read(path))
        .collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_files).collect();
    let is_live = |source: &Source| {
        let mut modules = tests.iter();
        !modules.any(|module| in_module(&source.path, module))
    };
    sources.into_iter().filter(is_live).collect()
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|is| is == extension)
}

/// Whether a file is where a table says: `x/` is everything below x, `x/**/y.rs` every y.rs below.
fn is_at(home: &str, path: &str) -> bool {
    if let Some((above, name)) = home.split_once("/**/") {
        let below = path
            .strip_prefix(above)
            .and_then(|rest| rest.strip_prefix('/'));
        below.is_some_and(|below| below == name || below.ends_with(&format!("/{name}")))
    } else if home.ends_with('/') {
        path.starts_with(home)
    } else {
        path == home
    }
}

/// Whether a file is a module (a path without `.rs`) or below it.
fn in_module(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The number of the first line that has `needle`; 1 if none has.
fn line_with(text: &str, needle: &str) -> usize {
    text.lines()
        .position(|line| line.contains(needle))
        .map_or(1, |index| index + 1)
}

// ---- The rules ----

/// What is outside of the layer in a path that one of its files names.
fn outside(layer: &Layer, file: &str, path: &[&str]) -> Option<&'static str> {
    if matches!(path[0], "crate" | "super" | "self") {
        return layer
            .ours
            .iter()
            .copied()
            .find(|name| path.contains(name) && !LAYER_EXCEPTIONS.contains(&(file, name)));
    }
    layer.foreign.iter().copied().find(|banned| {
        // `std::time` and `std::time::*` hold what `std::time::Instant` names.
        let mut pairs = banned.split("::").zip(path);
        pairs.all(|(banned, named)| *named == "*" || *named == banned)
    })
}

/// What a file promises instead of having it.
fn unfinished(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for mark in UNFINISHED_MARKS.iter().filter(|mark| line.contains(**mark)) {
            found.push((index + 1, (*mark).to_owned()));
        }
    }
    let tokens = tokens(&source.code);
    for pair in tokens.windows(2) {
        if UNFINISHED.contains(&pair[0].text) && pair[1].text == "!" {
            found.push((pair[0].line, format!("{}!", pair[0].text)));
        }
    }
    for three in tokens.windows(3) {
        if three[0].text == "#" && three[1].text == "[" && three[2].text == "ignore" {
            found.push((three[0].line, "a test that does not run".to_owned()));
        }
    }
    found
}

/// The lines with absolute paths of a machine.
fn machine_paths(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in MACHINE_PATHS {
            let begins = |at: usize| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "_-.~})>*".contains(c))
            };
            if line.match_indices(path).any(|(at, _)| begins(at)) {
                found.push((index + 1, *path));
            }
        }
    }
    found
}

/// Every `vigie_…` in a text with its line, but for the names of our own crates.
fn metric_names(text: &str) -> Vec<(usize, &str)> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let crates: Vec<String> = MEMBERS
        .iter()
        .filter_map(|(member, _)| Some(package(member)?.replace('-', "_")))
        .collect();
    let mut names = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("vigie_") {
            let rest = &line[at..];
            let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            let inside = line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if !inside && !crates.iter().any(|own| own == name) {
                names.push((index + 1, name));
            }
        }
    }
    names
}

/// Whether a name, or one that begins like it if it ends in `_`, is registered.
fn is_metric(name: &str, registered: &[&str]) -> bool {
    if name.ends_with('_') {
        return registered.iter().any(|known| {
            known
                .strip_prefix(name)
                .is_some_and(|rest| !rest.is_empty())
        });
    }
    let mut bases = HISTOGRAM_SUFFIXES
        .iter()
        .filter_map(|end| name.strip_suffix(end));
    registered.contains(&name) || bases.any(|base| registered.contains(&base))
}

// ---- Rust, as far as the rules need it ----

/// One file. `code` and `strings` are as long as `text`, with blanks where the other is.
struct Source {
    path: String,
    text: String,
    /// Without comments and what strings hold.
    code: String,
    /// Only what strings hold.
    strings: String,
}

impl Source {
    fn read(path: &str) -> Self {
        Self::new(path, &read(path))
    }

    fn new(path: &str, text: &str) -> Self {
        let mut kinds = vec![Kind::Code; text.len()];
        let mut at = 0;
        while at < text.len() {
            let (kind, end) = piece(text, at);
            kinds[at..end].fill(kind);
            if kind == Kind::Text {
                // The quotes, hashes and prefix are code.
                let inner = inner(&text[at..end]);
                kinds[at..at + inner.start].fill(Kind::Code);
                kinds[at + inner.end..end].fill(Kind::Code);
            }
            at = end;
        }
        let only = |kind| blank(text, |at| kinds[at] != kind);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: only(Kind::Code),
            strings: only(Kind::Text),
        }
    }

    /// The code without its test modules.
    fn live(&self) -> String {
        let tests = self.test_modules();
        blank(&self.code, |at| {
            tests.iter().any(|(_, body)| body.contains(&at))
        })
    }

    /// The strings without those of its test modules.
    fn live_strings(&self) -> String {
        let tests = self.test_modules();
        blank(&self.strings, |at| {
            tests.iter().any(|(_, body)| body.contains(&at))
        })
    }

    /// Each `#[cfg(test)] mod` with its name and the bytes of its body, none if that is a file.
    fn test_modules(&self) -> Vec<(String, Range<usize>)> {
        let tokens = tokens(&self.code);
        let mut modules = Vec::new();
        for start in 0..tokens.len() {
            let texts = tokens[start..].iter().map(|token| token.text);
            if !texts.take(7).eq(["#", "[", "cfg", "(", "test", ")", "]"]) {
                continue;
            }
            let mut rest = tokens[start + 7..].iter();
            let visibility = ["pub", "(", "crate", "super", ")"];
            let module = rest.find(|token| !visibility.contains(&token.text));
            let (Some("mod"), Some(name), Some(open)) =
                (module.map(|token| token.text), rest.next(), rest.next())
            else {
                continue;
            };
            let mut depth = usize::from(open.text == "{");
            let mut end = open.at;
            while depth > 0 {
                let token = rest.next().expect("each brace is closed");
                depth += usize::from(token.text == "{");
                depth -= usize::from(token.text == "}");
                end = token.at + 1;
            }
            modules.push((name.text.to_owned(), open.at..end));
        }
        modules
    }

    /// Its test modules that are files: each path without `.rs`.
    fn test_files(&self) -> Vec<String> {
        let (directory, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let below = match name.trim_end_matches(".rs") {
            "mod" | "lib" | "main" => directory.to_owned(),
            stem => format!("{directory}/{stem}"),
        };
        self.test_modules()
            .iter()
            .filter(|(_, body)| body.is_empty())
            .map(|(name, _)| format!("{below}/{name}"))
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// What begins at `at`, and where it ends.
fn piece(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let first = rest.chars().next().map_or(1, char::len_utf8);
    let inside_word = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (Kind::Comment, at + rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, at + block_comment(rest));
    }
    if let Some(body) = rest.strip_prefix('\'') {
        let mut chars = body.chars();
        let (one, two) = (chars.next(), chars.next());
        if one == Some('\\') || two == Some('\'') {
            return (Kind::Text, at + quoted(rest, '\''));
        }
    }
    if rest.starts_with('"') {
        return (Kind::Text, at + quoted(rest, '"'));
    }
    if !inside_word {
        let raw = rest.trim_start_matches(['b', 'c']);
        if let Some(hashes) = raw.strip_prefix('r') {
            let opening = hashes.trim_start_matches('#');
            if let Some(body) = opening.strip_prefix('"') {
                let close = format!("\"{}", "#".repeat(hashes.len() - opening.len()));
                let end = body
                    .find(&close)
                    .map_or(body.len(), |end| end + close.len());
                return (Kind::Text, at + rest.len() - body.len() + end);
            }
        }
    }
    (Kind::Code, at + first)
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a literal that opens and closes with `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// What a literal holds, without what opens and closes it.
fn inner(literal: &str) -> Range<usize> {
    let open = literal.find(['"', '\'']).map_or(0, |at| at + 1);
    let close = literal.rfind(['"', '\'']).unwrap_or(literal.len());
    open..close.max(open)
}

/// The text with blanks for some of its bytes; lines stay lines.
fn blank(text: &str, mut hide: impl FnMut(usize) -> bool) -> String {
    let bytes = text.bytes().enumerate();
    let shown = bytes.map(|(at, byte)| {
        if byte != b'\n' && hide(at) {
            b' '
        } else {
            byte
        }
    });
    String::from_utf8(shown.collect()).expect("whole characters are hidden")
}

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let first = rest.chars().next().unwrap_or(' ');
        let length = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            let text = &rest[..length];
            tokens.push(Token { text, at, line });
        }
        line += usize::from(first == '\n');
        at += length;
    }
    tokens
}

/// A path that code names, in segments, with its line.
type Named<'a> = (usize, Vec<&'a str>);

/// Every path of two segments or more, and all that `use` and `extern crate` name.
fn paths(code: &str) -> Vec<Named<'_>> {
    let tokens = tokens(code);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let before = |at: usize, back: usize| at.checked_sub(back).map_or("", text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `::x` begins a path unless something stands before it.
        let leading = usize::from(before(at, 1) == "::");
        let previous = before(at, 1 + leading);
        let goes_on = leading == 1 && previous != "use" && (is_name(previous) || previous == ">");
        let import = previous == "use" || (previous == "crate" && before(at, 2) == "extern");
        let begins = (is_name(text(at)) && text(at) != "use") || (import && text(at) == "{");
        if begins && !goes_on {
            at = branches(&tokens, at, &[], import, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path or `{…}` that begins at `at`, below `above`; gives where it ends.
fn branches<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    above: &[&'a str],
    import: bool,
    found: &mut Vec<Named<'a>>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut path = above.to_vec();
    let line = tokens[at].line;
    loop {
        if text(at) == "{" {
            at += 1;
            while at < tokens.len() && text(at) != "}" {
                let branch = is_name(text(at)) || matches!(text(at), "{" | "*");
                at = match text(at) {
                    // `x as y` names x alone.
                    "as" => at + 2,
                    _ if branch => branches(tokens, at, &path, import, found),
                    _ => at + 1,
                };
            }
            return at + 1;
        }
        if text(at) != "self" || path.is_empty() {
            path.push(text(at));
        }
        at += 1;
        let more = is_name(text(at + 1)) || (import && matches!(text(at + 1), "{" | "*"));
        if text(at) != "::" || !more {
            break;
        }
        at += 1;
    }
    if import || path.len() > 1 {
        found.push((line, path));
    }
    at
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
