//! What the engine says on the terminal: one line per event, flushed at once; and a channel for
//! notices that ends there.

use std::io::{self, Write};
use std::sync::Arc;

use vigie_actors::alert::{Channel, Undelivered, text};
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::incident::Notice;

/// One line (or several) on standard output. A closed pipe is nobody listening, not an error.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// One line on standard error.
pub(crate) fn error(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "error: {text}");
}

/// Prints each notice as one readable line.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) catalogue: Arc<Catalogue>,
}

impl Channel for Console {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn deliver(&mut self, notice: &Notice) -> Result<(), Undelivered> {
        say(&text::line(notice, &self.catalogue));
        Ok(())
    }
}
