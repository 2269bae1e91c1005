//! Alert: delivers what the outbox holds. What is said and when was decided before the commit
//! ([`crate::score::incident`]); here are the words, the channels and the actor.

pub mod actor;
pub mod mail;
pub mod text;

use crate::score::incident::Notice;

/// A way to a person.
pub trait Channel: Send {
    /// In logs and errors.
    fn name(&self) -> &'static str;

    /// Delivers one notice. Called again with the same notice after an error or a crash.
    ///
    /// # Errors
    /// Why not: the notice stays in the outbox.
    fn deliver(&mut self, notice: &Notice) -> Result<(), Undelivered>;
}

/// A notice did not get through this time.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Undelivered {
    /// What was tried.
    pub what: String,
    /// What went wrong.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}
