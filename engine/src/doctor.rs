//! `engine doctor`: looks at a store that no engine has open, and says whether it adds up.

use anyhow::{anyhow, bail};
use vigie_actors::clock::rfc3339;
use vigie_actors::store::Ledger;

use crate::config::Config;
use crate::console::say;
use crate::service::Ground;

/// Quarantined messages that are shown.
const NEWEST: usize = 10;

/// Prints the ledger and the newest quarantined messages; errs if the store does not hold what the ledger says.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    if !config.data_dir.join("store").exists() {
        bail!(
            "there is no store in {}; give its directory with --data-dir",
            config.data_dir.display()
        );
    }
    let ground = Ground::open(config)?;
    let ledger = ground.store.ledger()?;
    say(&sums(&ledger));
    for message in ground.store.quarantined(NEWEST)? {
        // What came from outside is printed as text that cannot steer a terminal.
        say(&format!(
            "  {}  {}  {:?}: {:?}",
            rfc3339(message.received_ms),
            message.reason,
            message.topic,
            message.detail
        ));
    }
    say(&format!(
        "{} isolation forests kept",
        ground.store.count_models()?
    ));
    let held = ground.store.count_readings()?;
    let removed = ground.store.removed()?;
    if removed > 0 {
        say(&format!(
            "{removed} old readings were removed; their hours stay"
        ));
    }
    if held + removed != ledger.stored {
        return Err(anyhow!(
            "the store holds {held} readings and {removed} were removed, its ledger says {}",
            ledger.stored
        ));
    }
    say(&format!(
        "ok: the store holds the {held} readings that its ledger says"
    ));
    Ok(())
}

fn sums(ledger: &Ledger) -> String {
    let quarantined: u64 = ledger.quarantined.values().sum();
    let mut text = format!(
        "received {} = stored {} + duplicate {} + quarantined {quarantined}\n\
         of the stored ones {} came late; {} numbers never came; {} anomalies",
        ledger.received(),
        ledger.stored,
        ledger.duplicate,
        ledger.late,
        ledger.missing,
        ledger.anomalies,
    );
    for (reason, count) in &ledger.quarantined {
        text += &format!("\n  quarantined for {reason}: {count}");
    }
    text
}
