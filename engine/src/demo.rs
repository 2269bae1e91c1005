//! `engine demo`: the whole engine on this machine, with three simulated sensors that go wrong now
//! and then, or with a real recording.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use smallvec::smallvec;
use tokio::sync::watch;
use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::config::Span;
use vigie_actors::ingest::listener;
use vigie_actors::pipeline::Pipeline;
use vigie_actors::reading::{Arrival, Identity, Reading};
use vigie_wire::{BootId, HUMIDITY, SensorId, TEMPERATURE};

use crate::config::Config;
use crate::console::say;
use crate::service::{Ground, Mode, Service, in_system, settings};
use crate::simulate::{Broker, FaultKind, FaultPlan, Fleet, FleetConfig, Options, Qos, publish};
use crate::source::{Recording, feed};

const SENSORS: usize = 3;
const SEED: u64 = 20;
const RECORDING: &str = include_str!("../data/single-hop-wsn.csv");

/// A demo talks to nobody, and is watched for minutes: its incidents end sooner than those of a real
/// plant.
fn tame(config: &mut Config) {
    config.listener = listener::Config {
        addr: config.listener.addr,
        ..listener::Config::default()
    };
    config.mqtt.host = None;
    config.mongodb.uri = None;
    config.email.smtp_host = None;
    config.incidents.gather = Span::secs(2);
    config.incidents.clear_after = Span::secs(15);
    config.incidents.cool_down = Span::secs(30);
}

/// With simulated sensors, through the built-in listener.
pub(crate) fn run(mut config: Config) -> anyhow::Result<()> {
    tame(&mut config);
    in_system(async {
        let ground = Ground::open(&config)?;
        if ground.store.sensors(None, 1)?.items.is_empty() {
            remember(&config, &ground).await?;
        }
        let service = Service::start(&config, ground, Mode::LIVE).await?;
        service.announce("demo with three simulated sensors, C001 to C003");
        say("Faults will come: spike, stuck, drift, dropout. Each incident is one line here.\n");

        let (stop, stopped) = watch::channel(false);
        let options = fleet_options(&service)?;
        let publisher = service.edges().spawn(publish(options, stopped, |_| {}));
        let outcome = service.until_stopped().await;
        // The publisher may have ended by itself, if the listener refused it.
        let _ = stop.send(true);
        let published = publisher.await;
        let stopped = service.stop().await;
        outcome?;
        stopped?;
        published
            .context("the simulated sensors")?
            .context("the simulated sensors")?;
        say("stopped; everything received is stored");
        Ok(())
    })
}

fn fleet(interval: Duration, faults: FaultPlan) -> Fleet {
    Fleet::new(FleetConfig {
        sensors: SENSORS,
        seed: SEED,
        interval,
        faults,
    })
}

fn fleet_options(service: &Service) -> anyhow::Result<Options> {
    let mut addr = service.mqtt_addr().context("the demo needs the listener")?;
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let broker: Broker = format!("mqtt://{addr}")
        .parse()
        .map_err(anyhow::Error::msg)?;
    let faults = FaultPlan {
        kinds: vec![
            FaultKind::Spike,
            FaultKind::Stuck,
            FaultKind::Drift,
            FaultKind::Dropout,
        ],
        every: 20,
        warmup: 10,
    };
    let interval = Duration::from_secs(1);
    let now_ms = SystemClock.now_ms();
    let mut options = Options::new(broker, Arc::new(fleet(interval, faults)), now_ms);
    options.rate = Some(SENSORS as f64 / interval.as_secs_f64());
    options.qos = Qos::AtLeastOnce;
    options.connections = 1;
    // A new boot each time, as a real node would have.
    options.boot = Some(boot(now_ms)?);
    Ok(options)
}

fn boot(now_ms: i64) -> anyhow::Result<BootId> {
    let text = format!("{:08x}", now_ms.unsigned_abs() & 0xffff_ffff);
    BootId::try_from(text.as_str()).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Gives the engine three quiet days to look back on, so that it has something to compare with in
/// its first minute: one reading a minute, then two minutes of one a second.
async fn remember(config: &Config, ground: &Ground) -> anyhow::Result<()> {
    let pipeline = Pipeline::start(
        &settings(config, true),
        ground.store.clone(),
        &ground.catalogue,
        Arc::new(SystemClock),
        Vec::new(),
        &ground.metrics,
    )
    .map_err(anyhow::Error::msg)?;
    let end_ms = SystemClock.now_ms() - 1000;
    let recent_ms = end_ms - 120_000;
    let fleet = fleet(Duration::from_mins(1), FaultPlan::none());
    let minutes = (0..3 * 24 * 60)
        .rev()
        .map(|ago: i64| recent_ms - ago * 60_000);
    let seconds = (0..120).map(|second: i64| recent_ms + (second + 1) * 1000);
    let boot = boot(end_ms - 1)?;
    let mut arrivals = Vec::new();
    for (seq, time_ms) in (0..).zip(minutes.chain(seconds)) {
        for sensor in 0..SENSORS {
            let Some(sample) = fleet.sample(sensor, seq, time_ms) else {
                continue;
            };
            arrivals.push(Arrival::Reading(Reading {
                sensor: SensorId::try_from(fleet.id(sensor).as_str()).context("a fleet's id")?,
                device_ms: Some(time_ms),
                received_ms: time_ms,
                order_ms: time_ms,
                identity: Identity::Sequence { boot, seq },
                next_s: None,
                start: None,
                values: smallvec![
                    (TEMPERATURE, sample.temperature),
                    (HUMIDITY, sample.humidity)
                ],
            }));
        }
    }
    feed(pipeline.intake(), arrivals.into_iter(), None).await?;
    pipeline
        .drain(Duration::from_secs(10))
        .await
        .map_err(anyhow::Error::msg)
}

/// With the recording that is built in, at `speed` times its own pace.
pub(crate) fn recording(mut config: Config, speed: Option<f64>) -> anyhow::Result<()> {
    tame(&mut config);
    in_system(async {
        let ground = Ground::open(&config)?;
        let mut rows = Recording::new(
            RECORDING.as_bytes(),
            Path::new("single-hop-wsn.csv"),
            &ground.catalogue,
        )?;
        let mode = Mode {
            event_time: true,
            mails: true,
            listen: false,
        };
        let service = Service::start(&config, ground, mode).await?;
        service.announce("demo with a real recording: four motes, one hour, two labelled events");
        let fed = tokio::select! {
            fed = feed(service.intake(), std::iter::from_fn(|| rows.next()), speed) => Some(fed?),
            stopped = service.until_stopped() => { stopped?; None }
        };
        if let Some(fed) = fed {
            say(&format!(
                "\nThe recording is through: {} readings. Look around, then press Ctrl-C.",
                fed.rows
            ));
            service.until_stopped().await?;
        }
        service.stop().await
    })
}
