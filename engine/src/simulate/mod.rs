//! A fleet of simulated sensors: readings with a daily cycle, noise and labelled faults, published
//! to any MQTT broker.
//!
//! [`fleet`] and [`faults`] are pure functions of a seed, [`labels`] writes down what was injected,
//! [`packet`] is the little of MQTT that a publisher needs, [`lane`] is the state of one connection
//! without its socket, and [`publisher`] drives the lanes over TCP and TLS.

pub(crate) mod command;
pub(crate) mod faults;
pub(crate) mod fleet;
pub(crate) mod labels;
mod lane;
mod packet;
pub(crate) mod publisher;
#[cfg(test)]
mod scripted;
mod transport;

pub(crate) use faults::{FaultKind, FaultPlan};
pub(crate) use fleet::{Fleet, FleetConfig, interval_for};
pub(crate) use labels::write_labels;
pub(crate) use packet::{Protocol, Qos};
pub(crate) use publisher::{Options, Progress, Report, publish};
pub(crate) use transport::Broker;
