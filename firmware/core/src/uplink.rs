//! Connects, and connects again.

use alloc::format;
use alloc::string::{String, ToString as _};

use embedded_storage_async::nor_flash::MultiwriteNorFlash;

use crate::session::{self, Over, within};
use crate::shared::Shared;
use crate::{Board, Network, Target};

/// A session that lived so long was a good one, even without a reading.
const GOOD_MS: u64 = 60_000;

/// One attempt: time, connection, session. Gives why it ended; `Ok` if all was sent.
pub(crate) async fn once<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    network: &impl Network,
    until_empty: bool,
) -> Result<(), String> {
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
        .ok_or("no answer in time")?
        .map_err(|error| error.to_string())?;
    match session::run(shared, network, link, until_empty).await {
        Over::Done => Ok(()),
        Over::Lost(why) => Err(why),
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
        let why = ended.err().unwrap_or_default();
        let mut bytes = [0; 8];
        shared.board.random(&mut bytes);
        let pause_ms = pause_ms(
            failures,
            u64::from_le_bytes(bytes),
            shared.timing.pause_ms,
            shared.timing.longest_pause_ms,
        );
        failures += 1;
        shared.link.replace(why.clone());
        shared.say(&format!("broker: {why}; again in {pause_ms} ms"));
        let resume_ms = shared.board.uptime_ms().saturating_add(pause_ms);
        shared.due.uplink_at(resume_ms);
        shared.board.sleep_until(resume_ms).await;
    }
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
