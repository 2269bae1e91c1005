//! `engine simulate`: the command line of the simulated fleet.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use secrecy::SecretString;
use tokio::sync::watch;
use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::config::Span;
use vigie_wire::BootId;

use super::{
    Broker, FaultKind, FaultPlan, Fleet, FleetConfig, Options, Progress, Protocol, Qos, Report,
    interval_for, publish, write_labels,
};
use crate::console::say;

/// Version of MQTT, as on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    /// MQTT 3.1.1
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5
    #[value(name = "5")]
    V5,
}

/// What the fleet is and where it publishes.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// mqtt://host:port or mqtts://host:port
    #[arg(long)]
    broker: Broker,
    /// Number of sensors
    #[arg(long, default_value_t = 3)]
    sensors: usize,
    /// Readings per second of the whole fleet, or `max`
    #[arg(long, value_name = "R|max", default_value = "3")]
    rate: Rate,
    /// Same seed, same readings
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What goes wrong, separated by commas: spike, stuck, drift, dropout, sentinel, noise
    #[arg(long, value_delimiter = ',')]
    faults: Vec<FaultKind>,
    /// One fault per sensor in so many readings
    #[arg(long, default_value_t = 500, requires = "faults")]
    fault_every: u64,
    /// No fault in the first readings of a sensor
    #[arg(long, default_value_t = 400, requires = "faults")]
    fault_warmup: u64,
    /// Write what was injected when to this CSV file
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Quality of service
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Publishes per connection that may wait for their acknowledgement
    #[arg(long, default_value_t = 1000)]
    window: u16,
    /// Stop after so many readings
    #[arg(long)]
    count: Option<u64>,
    /// Stop after this time, such as 30s or 5m
    #[arg(long)]
    duration: Option<Span>,
    /// Time of the first reading, ms since 1970 UTC; default: now
    #[arg(long, value_name = "MS")]
    start: Option<i64>,
    /// Time between two readings of a sensor as their times say; default: what the rate gives
    #[arg(long)]
    interval: Option<Span>,
    /// Boot id in the readings; default: one made of the seed
    #[arg(long)]
    boot: Option<String>,
    /// Version of MQTT
    #[arg(long, value_enum, default_value = "5")]
    protocol: Version,
    /// User name
    #[arg(long)]
    username: Option<String>,
    /// Password; better in the environment, where other users cannot see it
    #[arg(long, env = "VIGIE_SIMULATE_PASSWORD", hide_env_values = true)]
    password: Option<SecretString>,
    /// PEM file with the CA certificates to trust; default: those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with a client certificate, for brokers that ask for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Write `sensor boot seq t` of every acknowledged reading to this file
    #[arg(long, value_name = "FILE")]
    acked: Option<PathBuf>,
}

/// Readings per second; none: as fast as possible.
#[derive(Debug, Clone, Copy)]
struct Rate(Option<f64>);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self(None)),
            Ok(0.0) => Ok(Self(None)),
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self(Some(rate))),
            _ => Err("write readings per second, such as 2000, or max".to_owned()),
        }
    }
}

impl Simulate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let labels = self
            .labels
            .as_ref()
            .map(|path| {
                File::create(path).with_context(|| {
                    format!("cannot write {}; give another --labels", path.display())
                })
            })
            .transpose()?;
        let options = self.options()?;
        let (fleet, start_ms) = (Arc::clone(&options.fleet), options.start_ms);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start threads")?;
        let report = runtime.block_on(async {
            let (stop, stopped) = watch::channel(false);
            tokio::spawn(async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    let _ = stop.send(true);
                    // The sender must outlive the wait for the last acknowledgements.
                    stop.closed().await;
                } else {
                    std::future::pending::<()>().await;
                }
            });
            publish(options, stopped, show).await
        })?;
        say(&summary(&report));
        if let Some(file) = labels {
            let episodes = write_labels(
                BufWriter::new(file),
                &fleet,
                start_ms,
                0..report.readings_per_sensor,
            )
            .context("cannot write the labels")?;
            say(&format!("{episodes} injected faults written down"));
        }
        Ok(())
    }

    fn options(&self) -> anyhow::Result<Options> {
        let faults = if self.faults.is_empty() {
            FaultPlan::none()
        } else {
            FaultPlan {
                kinds: self.faults.clone(),
                every: self.fault_every,
                warmup: self.fault_warmup,
            }
        };
        let interval = self
            .interval
            .map_or_else(|| interval_for(self.sensors, self.rate.0), Span::duration);
        let fleet = Fleet::new(FleetConfig {
            sensors: self.sensors,
            seed: self.seed,
            interval,
            faults,
        });
        let start_ms = self.start.unwrap_or_else(|| SystemClock.now_ms());
        let mut options = Options::new(self.broker.clone(), Arc::new(fleet), start_ms);
        options.ca_file.clone_from(&self.ca);
        options.identity = self.cert.clone().zip(self.key.clone());
        options.protocol = match self.protocol {
            Version::V311 => Protocol::V311,
            Version::V5 => Protocol::V5,
        };
        options.username.clone_from(&self.username);
        options.password.clone_from(&self.password);
        options.connections = self.connections;
        options.qos = if self.qos == 0 {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        options.window = self.window;
        options.rate = self.rate.0;
        options.count = self.count;
        options.duration = self.duration.map(Span::duration);
        options.boot = self
            .boot
            .as_deref()
            .map(BootId::try_from)
            .transpose()
            .map_err(|error| anyhow!("--boot: {error}"))?;
        options.acked_file.clone_from(&self.acked);
        Ok(options)
    }
}

/// Once a second, on standard error: what is on standard output is the result.
#[allow(clippy::needless_pass_by_value, reason = "the publisher gives it away")]
fn show(progress: Progress) {
    tracing::info!(
        sent = progress.sent,
        acked = progress.acked,
        refused = progress.refused,
        reconnects = progress.reconnects,
        connected = progress.connected,
        trouble = progress.trouble.as_deref(),
        "publishing"
    );
}

fn summary(report: &Report) -> String {
    let seconds = report.elapsed.as_secs_f64().max(1e-9);
    let mut text = format!(
        "sent {} in {seconds:.2} s ({:.0}/s), acknowledged {}, refused {}, unacknowledged {}, sent \
         again {}, dropped out {}, reconnects {}",
        report.sent,
        report.sent as f64 / seconds,
        report.acked,
        report.refused,
        report.unacked,
        report.resent,
        report.dropped_out,
        report.reconnects,
    );
    if let Some(latency) = report.latency {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        text += &format!(
            "\nPUBACK latency ms: p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
            ms(latency.p50),
            ms(latency.p90),
            ms(latency.p99),
            ms(latency.p999),
            ms(latency.max),
        );
    }
    text
}
