//! Logs go to standard error: readable on a terminal, JSON on a pipe. `VIGIE_LOG` sets the level,
//! as in `VIGIE_LOG=debug` or `VIGIE_LOG=info,vigie_actors::ingest=debug`.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Call once.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("VIGIE_LOG")
        // The database logs every file it opens.
        .unwrap_or_else(|_| EnvFilter::new("info,fjall=warn,lsm_tree=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    if stderr().is_terminal() {
        builder.with_target(false).compact().init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
