//! What the engine says on the terminal: one line per event, flushed at once; and a channel for
//! notices that ends there.

use std::io::{self, Write};
use std::sync::Arc;

use vigie_actors::alert::text::Voice;
use vigie_actors::alert::{Channel, Undelivered};
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
    voice: Voice,
}

impl Console {
    /// Name of the channel.
    pub(crate) const NAME: &str = "terminal";

    pub(crate) fn new(catalogue: &Arc<Catalogue>) -> Self {
        Self {
            voice: Voice::english(Arc::clone(catalogue)),
        }
    }
}

impl Channel for Console {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn deliver(&mut self, notices: &[Notice], _used: u32) -> Result<(), Undelivered> {
        for notice in notices {
            say(&self.voice.line(notice));
        }
        Ok(())
    }
}
