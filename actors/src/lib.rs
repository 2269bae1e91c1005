//! The stages of Vigie's stream: pure logic, wrapped in thin actix shells.
//!
//! ```text
//!  sources ──Delivery──▶ Ingest ──Arrived──▶ Stats[i] ──Part──▶ Scorer ──Scored──▶ Store ──▶ answer
//!     ▲                                                                             │
//!     └──────────────────── the batch's answer: acknowledge ◀───────────────────────┤
//!                                                              Alerter ◀──Noticed───┤
//!                                              Forwarder ◀──what is in line for MongoDB─┘
//! ```
//!
//! A reading is acknowledged only when it is durable; a redelivery changes nothing; a reading that
//! makes a stage panic is quarantined alone. `docs/ARCHITECTURE.md` has the invariants and the
//! tests that guard them.

pub mod alert;
pub mod batch;
pub mod clock;
pub mod config;
pub mod failpoint;
pub mod forward;
pub mod group;
pub mod ingest;
pub mod message;
pub mod metrics;
pub mod pipeline;
pub mod quantity;
pub mod reading;
pub mod score;
pub mod secret;
pub mod stats;
pub mod store;
pub mod supervise;
pub mod tls;
