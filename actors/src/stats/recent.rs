//! Which readings of one sensor were taken in lately: recognises redeliveries without asking the
//! store, and counts the numbers that are missing.

use serde::{Deserialize, Serialize};

use crate::reading::Identity;

const WORDS: usize = 16;

/// What the window can say of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Taken in before.
    Seen,
    /// Cannot have been taken in before.
    Fresh,
    /// Outside of the window: only the store knows.
    Unknown,
}

/// The last 1,024 sequence numbers of the current boot, and the payload hashes at the newest time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    boot: Option<vigie_wire::BootId>,
    highest: u64,
    /// Bit `n` of the ring (number modulo 1,024) is set if that number was seen.
    seen: [u64; WORDS],
    /// Sequence numbers that were skipped, over all boots; late arrivals do not take them back.
    pub missing: u64,
    hash_ms: i64,
    hashes: Vec<u64>,
}

impl Recent {
    /// Size of the window of sequence numbers.
    pub const WINDOW: u64 = WORDS as u64 * 64;
    const HASHES: usize = 16;

    /// Looks `identity` up. `order_ms` is the reading's order time.
    pub fn sighting(&self, identity: Identity, order_ms: i64) -> Sighting {
        match identity {
            Identity::Unique(_) => Sighting::Fresh,
            Identity::Payload(hash) => {
                if order_ms != self.hash_ms {
                    Sighting::Unknown
                } else if self.hashes.contains(&hash) {
                    Sighting::Seen
                } else if self.hashes.len() < Self::HASHES {
                    Sighting::Fresh
                } else {
                    Sighting::Unknown
                }
            }
            Identity::Sequence { boot, seq } => {
                if self.boot != Some(boot) {
                    Sighting::Unknown
                } else if seq > self.highest {
                    Sighting::Fresh
                } else if self.highest - seq >= Self::WINDOW {
                    Sighting::Unknown
                } else if self.bit(seq) {
                    Sighting::Seen
                } else {
                    // Skipped so far: it may still have been stored as a late one.
                    Sighting::Unknown
                }
            }
        }
    }

    /// Is this a reading of another boot than those before it?
    pub fn is_of_another_boot(&self, identity: Identity) -> bool {
        match identity {
            Identity::Sequence { boot, .. } => self.boot.is_some_and(|known| known != boot),
            Identity::Payload(_) | Identity::Unique(_) => false,
        }
    }

    /// See `SensorState::touch`.
    pub fn touch(&self) -> u64 {
        self.highest ^ self.seen[WORDS / 2]
    }

    /// Takes `identity` in. Returns how many numbers were skipped just before it.
    pub fn record(&mut self, identity: Identity, order_ms: i64) -> u64 {
        match identity {
            Identity::Unique(_) => 0,
            Identity::Payload(hash) => {
                if order_ms != self.hash_ms {
                    self.hash_ms = order_ms;
                    self.hashes.clear();
                }
                if self.hashes.len() < Self::HASHES {
                    self.hashes.push(hash);
                }
                0
            }
            Identity::Sequence { boot, seq } => {
                if self.boot != Some(boot) {
                    self.boot = Some(boot);
                    self.highest = seq;
                    self.seen = [0; WORDS];
                    self.set(seq);
                    return 0;
                }
                let mut skipped = 0;
                if seq > self.highest {
                    skipped = seq - self.highest - 1;
                    if skipped >= Self::WINDOW {
                        self.seen = [0; WORDS];
                    } else {
                        for number in self.highest + 1..seq {
                            self.clear(number);
                        }
                    }
                    self.highest = seq;
                }
                // An older number shares its bit with a newer one.
                if self.highest - seq < Self::WINDOW {
                    self.set(seq);
                }
                self.missing = self.missing.saturating_add(skipped);
                skipped
            }
        }
    }

    fn place(seq: u64) -> (usize, u64) {
        // The remainder is below 1,024, so the cast cannot cut.
        #[allow(clippy::cast_possible_truncation, reason = "remainder below 1,024")]
        let place = (seq % Self::WINDOW) as usize;
        (place / 64, 1 << (place % 64))
    }

    fn bit(&self, seq: u64) -> bool {
        let (word, mask) = Self::place(seq);
        self.seen[word] & mask != 0
    }

    fn set(&mut self, seq: u64) {
        let (word, mask) = Self::place(seq);
        self.seen[word] |= mask;
    }

    fn clear(&mut self, seq: u64) {
        let (word, mask) = Self::place(seq);
        self.seen[word] &= !mask;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(boot: &str, seq: u64) -> Identity {
        Identity::Sequence {
            boot: boot.try_into().unwrap(),
            seq,
        }
    }

    proptest! {
        /// Never calls a stored number fresh, nor a fresh one seen; inside the window it is exact.
        #[test]
        fn agrees_with_a_set(jumps in prop::collection::vec(-1500_i64..1500, 1..200)) {
            let mut recent = Recent::default();
            let mut known = HashSet::new();
            let (mut at, mut highest) = (5_000_i64, 0);
            for jump in jumps {
                at = (at + jump).max(0);
                let seq = at.unsigned_abs();
                let sighting = recent.sighting(id("b", seq), 0);
                match sighting {
                    Sighting::Seen => prop_assert!(known.contains(&seq)),
                    Sighting::Fresh => prop_assert!(!known.contains(&seq)),
                    Sighting::Unknown => prop_assert!(
                        known.is_empty() || highest - seq >= Recent::WINDOW || !known.contains(&seq)
                    ),
                }
                recent.record(id("b", seq), 0);
                known.insert(seq);
                highest = highest.max(seq);
            }
        }
    }

    #[test]
    fn counts_what_is_missing() {
        let mut recent = Recent::default();
        for seq in [1, 2, 5, 6, 2000] {
            recent.record(id("a", seq), 0);
        }
        assert_eq!(recent.missing, 2 + 1993);
        assert!(recent.is_of_another_boot(id("b", 900)));
        assert!(!recent.is_of_another_boot(id("a", 2001)));
        recent.record(id("b", 900), 0);
        assert_eq!(recent.missing, 1995, "a reboot starts a new count");
        assert_eq!(
            recent.sighting(id("a", 2000), 0),
            Sighting::Unknown,
            "the store knows"
        );
    }

    #[test]
    fn payloads_of_one_moment_are_told_apart() {
        let mut recent = Recent::default();
        assert_eq!(recent.sighting(Identity::Payload(1), 7), Sighting::Unknown);
        recent.record(Identity::Payload(1), 7);
        assert_eq!(recent.sighting(Identity::Payload(1), 7), Sighting::Seen);
        assert_eq!(recent.sighting(Identity::Payload(2), 7), Sighting::Fresh);
    }
}
