//! `engine test-alert`: a sample incident to people and programs, step by step. Needs no store, so an
//! engine may be running meanwhile.

use std::sync::Arc;

use anyhow::anyhow;
use vigie_actors::alert::chart::Point;
use vigie_actors::alert::link::Signer;
use vigie_actors::alert::mail::{self, EmlFiles};
use vigie_actors::alert::{Channel, History, Undelivered};
use vigie_actors::clock::{Clock, SystemClock};
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::incident::{Incident, Kind, Notice, NoticeKind};
use vigie_actors::score::rules::{Rule, Verdict};
use vigie_actors::stats::device::Device;
use vigie_actors::supervise::chain;
use vigie_wire::{QuantityId, SensorId, TEMPERATURE};

use crate::channels;
use crate::cli::Misuse;
use crate::config::Config;
use crate::console::say;

/// The sensor of the sample.
const SENSOR: &str = "TEST";

/// A past that never was: a calm curve, and then a jump.
struct Sample;

impl History for Sample {
    fn past(&self, _: &SensorId, _: QuantityId, (from_ms, to_ms): (i64, i64)) -> Vec<Point> {
        let minutes = (from_ms..to_ms).step_by(60_000);
        let point = |at_ms: i64| {
            let calm = 21.3 + 0.4 * (at_ms as f64 / 3_600_000.0).sin();
            let jumped = to_ms - at_ms < 10 * 60_000;
            Point {
                at_ms,
                value: if jumped { calm + 10.0 } else { calm },
                anomaly: jumped,
            }
        };
        minutes.map(point).collect()
    }

    fn device(&self, _: &SensorId) -> Option<Box<Device>> {
        None
    }
}

fn sample(now_ms: i64) -> anyhow::Result<Notice> {
    let since_ms = now_ms - 10 * 60_000;
    let verdict = Verdict {
        rule: Rule::Rate,
        quantity: Some(TEMPERATURE),
        observed: 31.4,
        expected: 21.3,
        line: 22.5,
        ratio: 8.4,
        since_ms,
        evidence: Vec::new(),
    };
    let incident = Incident {
        kind: Kind::Values,
        sensor: Some(SensorId::try_from(SENSOR).map_err(|error| anyhow!("{error}"))?),
        group: None,
        opened_ms: since_ms,
        begun_ms: since_ms,
        last_ms: now_ms,
        near_ms: now_ms,
        resolved_ms: None,
        severity: verdict.severity(),
        worst: verdict.clone(),
        first: verdict,
        also: Vec::new(),
        peaks: Vec::new(),
        anomalies: 10,
        members: Vec::new(),
        relapses: 0,
        acknowledged: None,
        false_alarm: None,
        told: None,
        notices: 1,
    };
    Ok(Notice {
        number: 1,
        kind: NoticeKind::Opened,
        incident,
        at_ms: now_ms,
        is_quiet: false,
    })
}

/// Sends it by all channels, or by one.
pub(crate) fn run(config: &Config, only: Option<&str>) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let catalogue = Catalogue::build(&config.quantities, &[])
        .map_err(|invalid| anyhow!(invalid.within("quantities")))?;
    let catalogue = Arc::new(catalogue);
    let notice = sample(clock.now_ms())?;
    let mut names = vec![mail::NAME.to_owned()];
    names.extend(config.webhook.keys().map(|name| format!("webhook-{name}")));
    let managers = config.alertmanager.keys();
    names.extend(managers.map(|name| format!("alertmanager-{name}")));
    if let Some(only) = only {
        if !names.iter().any(|name| name == only) {
            let there = names.join(", ");
            let words = format!("there is no channel {only:?}; there are: {there}");
            return Err(Misuse(words).into());
        }
        names.retain(|name| name == only);
    }
    let mut failed = Vec::new();
    for name in names {
        say(&format!("{name}:"));
        let sent = match name.split_once('-') {
            Some(("webhook", hook)) => {
                let (mut channel, _) = channels::webhook(config, hook, &catalogue, &clock)?;
                channel.deliver(std::slice::from_ref(&notice), 0)
            }
            Some(("alertmanager", manager)) => {
                let open = Box::new(Vec::new);
                let (mut channel, _) =
                    channels::alertmanager(config, manager, &catalogue, &clock, open)?;
                channel.deliver(std::slice::from_ref(&notice), 0)
            }
            _ => mail(config, &catalogue, &notice)?,
        };
        match sent {
            Ok(()) => say("  delivered"),
            Err(undelivered) => {
                say(&format!("  FAILED: {}", chain(&undelivered)));
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "the sample incident did not go by {}",
        failed.join(", ")
    ))
}

fn mail(
    config: &Config,
    catalogue: &Arc<Catalogue>,
    notice: &Notice,
) -> anyhow::Result<Result<(), Undelivered>> {
    // Links that work need the store's key; those of a sample lead nowhere anyway.
    let signer = Signer::new([0; 32]);
    let letters = channels::letters(config, Box::new(Sample), catalogue, &signer)?;
    let Some(server) = config.email.server() else {
        let dir = config.data_dir.join("mail");
        say(&format!(
            "  [email] smtp_host is not set: mails are files in {}",
            dir.display()
        ));
        let mut files = EmlFiles::new(dir, letters);
        return Ok(files.deliver(std::slice::from_ref(notice), 0));
    };
    let smtp = channels::smtp(config, server, letters);
    let sent = smtp.test(notice, &mut |step| say(&format!("  {step}")));
    if sent.is_ok() {
        let to = &config.email.email_to;
        say(&format!("  look into the mailbox of {to}, spam too"));
    }
    Ok(sent)
}
