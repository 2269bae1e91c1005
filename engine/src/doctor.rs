//! `engine doctor`: looks at a store that no engine has open, and says whether it adds up.

use std::path::Path;

use anyhow::{anyhow, bail};
use vigie_actors::clock::rfc3339;
use vigie_actors::store::Ledger;
use vigie_actors::store::embedded::Embedded;

use crate::config::Config;
use crate::console::say;
use crate::service::Ground;

/// Quarantined messages that are shown.
const NEWEST: usize = 10;

/// Prints the ledger and the newest quarantined messages; errs if the store does not hold what the
/// ledger says, or cannot be read to its end. With `repair` it first leaves out what cannot be read of
/// the journal.
pub(crate) fn run(config: &Config, repair: bool) -> anyhow::Result<()> {
    let dir = config.data_dir.join("store");
    if !dir.exists() {
        bail!(
            "there is no store in {}; give its directory with --data-dir",
            config.data_dir.display()
        );
    }
    if repair {
        mend(&dir)?;
    }
    let ground = Ground::open(config)?;
    let store = &ground.store;
    let damaged = store.read_through()?;
    for part in &damaged {
        say(&format!(
            "damaged: {} cannot be read beyond {} rows: {}",
            part.keyspace, part.rows, part.why
        ));
    }
    if !damaged.is_empty() {
        bail!(
            "{} is damaged: put it back from a copy (docs/reliability.md, \"Putting a store back\"); \
             `engine export` may still read the sensors that are not touched",
            dir.display()
        );
    }
    let ledger = store.ledger()?;
    say(&sums(&ledger));
    for message in store.quarantined(NEWEST)? {
        // What came from outside is printed as text that cannot steer a terminal.
        say(&format!(
            "  {}  {}  {:?}: {:?}",
            rfc3339(message.received_ms),
            message.reason,
            message.topic,
            message.detail
        ));
    }
    say(&format!("{} isolation forests kept", store.count_models()?));
    let held = store.count_readings()?;
    let removed = store.removed()?;
    if removed > 0 {
        say(&format!(
            "{removed} old readings were removed; their hours stay"
        ));
    }
    let known = store.lost()?;
    let lost = ledger.stored.saturating_sub(held + removed);
    if repair && lost != known {
        store.put_lost(lost)?;
    } else if held + removed + known != ledger.stored {
        return Err(anyhow!(
            "the store holds {held} readings and {removed} were removed, its ledger says {}",
            ledger.stored
        ));
    }
    if lost > 0 {
        say(&format!(
            "{lost} readings were lost by damage that was repaired"
        ));
    }
    say(&format!(
        "ok: the store holds the {held} readings that its ledger says"
    ));
    Ok(())
}

fn mend(dir: &Path) -> anyhow::Result<()> {
    let left_out = Embedded::repair(dir)?;
    if left_out.is_empty() {
        say("the journal needs no repair");
    }
    for part in left_out {
        say(&format!(
            "{}: {} bytes that cannot be read are left out; the file as it was is {}",
            part.journal.display(),
            part.bytes,
            part.kept.display()
        ));
    }
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
