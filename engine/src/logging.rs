//! Logs go to standard error: readable on a terminal, JSON on a pipe. `VIGIE_LOG` sets the level,
//! as in `VIGIE_LOG=debug` or `VIGIE_LOG=info,vigie_actors::ingest=debug`. Warnings and errors that
//! repeat themselves within a minute are told once, and counted.

mod repeats;

use std::io::{IsTerminal, stderr};
use std::thread::JoinHandle;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use self::repeats::Repeats;

/// Crates whose details hold secrets: these tell whole requests, with the token in their head and the path
/// of a webhook. Of what else talks to others, lettre and the MongoDB driver are built without logging;
/// rumqttc, rustls, h2 and hickory tell lengths, numbers and host names.
const SECRETIVE: [&str; 2] = ["ureq", "ureq_proto"];

/// Whether it may be told, whatever `VIGIE_LOG` asks for.
fn is_no_secret(about: &Metadata<'_>) -> bool {
    let of = about.target().split("::").next().unwrap_or_default();
    *about.level() <= Level::INFO || !SECRETIVE.contains(&of)
}

/// Tells what was held back when it is dropped.
pub(crate) struct Log {
    repeats: Repeats,
    counting: Option<JoinHandle<()>>,
}

/// Call once, and keep what it gives to the end.
pub(crate) fn start() -> Log {
    let mut filter = EnvFilter::try_from_env("VIGIE_LOG")
        // The database logs every file it opens.
        .unwrap_or_else(|_| EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    // What was held back is told whatever else is asked for.
    if let Ok(told) = format!("{}=warn", repeats::TARGET).parse() {
        filter = filter.add_directive(told);
    }
    let repeats = Repeats::new();
    let lines = fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_no_secret))
        .with(repeats.clone());
    if stderr().is_terminal() {
        registry.with(lines.with_target(false).compact()).init();
    } else {
        registry.with(lines.json().flatten_event(true)).init();
    }
    let background = repeats.clone();
    let thread = std::thread::Builder::new().name("log".into());
    // Without it, counts are told at the end only.
    let counting = thread.spawn(move || background.run()).ok();
    Log { repeats, counting }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.repeats.end();
        if let Some(counting) = self.counting.take() {
            // If it panicked, there is nothing more to tell.
            let _ended = counting.join();
        } else {
            self.repeats.run();
        }
    }
}
