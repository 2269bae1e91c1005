//! The real binary as its users meet it: started, loaded, killed, stopped and asked.
//!
//! The environment sets how much: `VIGIE_KILLS` (kills in `kill`, default 10), `VIGIE_OUTAGES`
//! (restarts and kills of the broker in `outages`, default 5), `VIGIE_FLOOD` (ids in `flood`,
//! default 20,000), `VIGIE_FLEET_S` (seconds of the fleet in `node`, default 30),
//! `VIGIE_NODE_CHAOS_S` (seconds of faults there, default 25) and `VIGIE_NODE_KILLS` (kills of a node
//! there, default 5).
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test, as tests do"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests watch another process, on the clock on the wall"
)]
#![allow(
    clippy::print_stderr,
    reason = "a failed test shows what the engine said"
)]

mod alerts;
mod backtest;
mod certificates;
mod cli;
mod clock;
mod damage;
mod disk;
mod end_to_end;
mod export;
mod failpoints;
mod fault_proxy;
mod flood;
mod foreign;
mod harness;
mod keep;
mod kill;
mod logs;
mod mail_server;
mod mongo;
mod mongo_server;
mod mosquitto;
mod mqtt;
mod node;
mod outages;
mod overload;
mod page;
mod password_door;
mod poison;
mod prometheus;
mod scrape;
mod secrets;
mod shutdown;
mod smtp;
mod soak;
mod tls;
mod tls_door;
