//! Connects, and connects again.

use alloc::format;
use alloc::string::{String, ToString as _};
use core::fmt;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;

use crate::session::{self, Over, within};
use crate::shared::Shared;
use crate::{Board, DialError, Network, Target};

/// A session that lived so long was a good one, even without a reading.
const GOOD_MS: u64 = 60_000;

/// How often a node that is about to sleep again looks whether there is a network.
const LOOK_MS: u64 = 250;

/// Why an attempt ended.
pub(crate) enum Missed {
    /// There is nothing to dial on yet.
    NoNetwork,
    /// For this reason, in words.
    Because(String),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetwork => DialError::NoNetwork.fmt(f),
            Self::Because(why) => f.write_str(why),
        }
    }
}

/// One attempt: time, connection, session. Gives why it ended; `Ok` if all was sent.
pub(crate) async fn once<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    network: &impl Network,
    until_empty: bool,
) -> Result<(), Missed> {
    shared.due.uplink_at(shared.board.uptime_ms());
    if shared.clock.get().is_stale(shared.board.uptime_ms()) {
        shared.ask_the_time(network).await;
    }
    let begun_ms = shared.board.uptime_ms();
    shared
        .due
        .uplink_at(begun_ms.saturating_add(shared.timing.dial_ms));
    let broker = &shared.config.broker;
    let target = Target {
        host: &broker.host,
        port: broker.port,
        ca_pem: broker.tls.then_some(broker.ca.as_str()),
        utc_ms: shared
            .clock
            .get()
            .for_certificates(shared.board.uptime_ms()),
    };
    let link = within(&shared.board, shared.timing.dial_ms, network.dial(target))
        .await
        .unwrap_or(Err(DialError::Timeout));
    let link = match link {
        Ok(link) => link,
        Err(DialError::NoNetwork) => return Err(Missed::NoNetwork),
        Err(why) => return Err(Missed::Because(why.to_string())),
    };
    match session::run(shared, network, link, until_empty).await {
        Over::Done => Ok(()),
        Over::Lost(why) => Err(Missed::Because(why)),
    }
}

/// Attempt after attempt until all is sent or it has taken so long. Joining a network takes a chip some
/// seconds after each sleep: until then it looks often, because every second awake costs battery.
/// A broker that does not answer well is left alone for longer and longer.
pub(crate) async fn until_sent<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    network: &impl Network,
    awake_ms: u64,
) {
    let attempts = async {
        let mut failures = 0;
        while let Err(missed) = once(shared, network, true).await {
            let pause_ms = match missed {
                Missed::NoNetwork => LOOK_MS,
                Missed::Because(_) => {
                    failures += 1;
                    next_pause_ms(shared, failures - 1)
                }
            };
            let why = missed.to_string();
            if *shared.link.borrow() != why {
                shared.say(&format!("broker: {why}"));
                shared.link.replace(why);
            }
            pause(shared, pause_ms).await;
        }
    };
    if within(&shared.board, awake_ms, attempts).await.is_none() {
        shared.say("broker: not all is sent; after the sleep again");
    }
}

/// Attempt after attempt, with pauses that grow.
pub(crate) async fn for_ever<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    network: &impl Network,
) {
    let mut failures = 0;
    loop {
        let begun_ms = shared.board.uptime_ms();
        let before = shared.counters.acknowledged();
        let ended = once(shared, network, false).await;
        let lived_ms = shared.board.uptime_ms().saturating_sub(begun_ms);
        if shared.counters.acknowledged() > before || lived_ms > GOOD_MS {
            failures = 0;
        }
        let why = ended.err().map_or_else(String::new, |why| why.to_string());
        let pause_ms = next_pause_ms(shared, failures);
        failures += 1;
        shared.say(&format!("broker: {why}; again in {pause_ms} ms"));
        shared.link.replace(why);
        pause(shared, pause_ms).await;
    }
}

/// Waits, and tells the watchdog until when.
async fn pause<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    pause_ms: u64,
) {
    let resume_ms = shared.board.uptime_ms().saturating_add(pause_ms);
    shared.due.uplink_at(resume_ms);
    shared.board.sleep_until(resume_ms).await;
}

fn next_pause_ms<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    failures: u32,
) -> u64 {
    let mut bytes = [0; 8];
    shared.board.random(&mut bytes);
    pause_ms(
        failures,
        u64::from_le_bytes(bytes),
        shared.timing.pause_ms,
        shared.timing.longest_pause_ms,
    )
}

/// Twice as long after each failure, up to the longest; at random between half of that and all of
/// it, so that nodes that lost their broker together do not come back together.
fn pause_ms(failures: u32, chance: u64, first_ms: u64, longest_ms: u64) -> u64 {
    let whole_ms = first_ms
        .saturating_mul(1 << failures.min(32))
        .min(longest_ms);
    let half_ms = whole_ms / 2;
    half_ms + chance % (whole_ms - half_ms).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_scattered() {
        for (failures, low, high) in [(0, 500, 1_000), (3, 4_000, 8_000), (99, 150_000, 300_000)] {
            let pauses =
                [0, 1, 7_777, u64::MAX].map(|chance| pause_ms(failures, chance, 1_000, 300_000));
            assert!(
                pauses.iter().all(|pause| (low..high).contains(pause)),
                "{pauses:?}"
            );
            assert!(pauses[0] != pauses[2]);
        }
        assert_eq!(pause_ms(0, 5, 0, 0), 0);
    }
}
