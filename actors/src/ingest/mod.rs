//! Ingest: sources hand readings in, batches go out, acknowledgements come back.
//!
//! `intake` is the door for every source, `listener` the built-in MQTT endpoint, `broker` the client of
//! an external one, `payload` makes
//! readings of bytes, `batcher` decides what to send and what to try again, `actor` is its shell.

pub mod acl;
pub mod actor;
pub mod auth;
pub mod batcher;
pub mod bounds;
pub mod broker;
pub mod decode;
pub mod intake;
pub mod listener;
pub mod payload;
