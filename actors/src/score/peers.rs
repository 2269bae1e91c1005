//! What the sensors of a declared group do together is evidence: where the others go the same way,
//! one of them is no news. Pure.
//!
//! Only the newest z of each value of each sensor counts, as the store has it: after a restart the
//! sums are the same, whatever the order in which they are made. That is why they are whole numbers.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::group::Groups;

const HOUR_MS: i64 = 3_600_000;
/// Parts of a standard deviation that are told apart.
const PARTS: f64 = 1024.0;
/// Beyond this one sensor says no more.
const CLIP: f64 = 8.0;
/// From here on a sensor goes somewhere.
const GOES: f64 = 1.0;
/// So many others at least, and more than half of them, must go the same way.
const AGREEING: u32 = 2;
/// A common movement explains at most this share of a distance.
const MOST: f64 = 0.75;

/// The newest z of one quantity of one sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Latest {
    quantity: QuantityId,
    hour: i64,
    z: i64,
}

#[derive(Debug, Default)]
struct Member {
    /// Number of its group; `None`: it is in none.
    group: Option<usize>,
    latest: SmallVec<[Latest; 2]>,
}

/// All sensors of a group whose newest reading is of one hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slice {
    hour: i64,
    count: u32,
    sum: i64,
    up: u32,
    down: u32,
}

/// One quantity of one group: the newest hour and the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Common {
    newest: i64,
    slices: [Slice; 2],
}

/// Who goes where in each group.
#[derive(Debug, Default)]
pub struct Peers {
    groups: Arc<Groups>,
    names: Vec<String>,
    members: HashMap<SensorId, Member, Xxh3DefaultBuilder>,
    commons: HashMap<(usize, QuantityId), Common, Xxh3DefaultBuilder>,
}

impl Slice {
    fn count(&mut self, z: i64, by: i32) {
        self.sum += i64::from(by) * z;
        for (number, counts) in [
            (&mut self.count, true),
            (&mut self.up, goes(z) > 0),
            (&mut self.down, goes(z) < 0),
        ] {
            if counts {
                *number = number.saturating_add_signed(by);
            }
        }
    }
}

/// 1 up, −1 down, 0 nowhere.
fn goes(z: i64) -> i64 {
    if (z.abs() as f64) < GOES * PARTS {
        0
    } else {
        z.signum()
    }
}

impl Common {
    fn slice(&mut self, hour: i64) -> &mut Slice {
        &mut self.slices[usize::from(hour.rem_euclid(2) == 1)]
    }

    fn enter(&mut self, latest: Latest) {
        let slice = self.slice(latest.hour);
        if slice.hour < latest.hour {
            *slice = Slice {
                hour: latest.hour,
                ..Slice::default()
            };
        }
        if slice.hour == latest.hour {
            slice.count(latest.z, 1);
        }
    }

    fn leave(&mut self, latest: Latest) {
        let slice = self.slice(latest.hour);
        if slice.hour == latest.hour {
            slice.count(latest.z, -1);
        }
    }

    /// By how much lines are further away for who is at `z`, while the others are where they are.
    fn factor(&mut self, z: i64) -> f64 {
        let mut all = Slice::default();
        for hour in [self.newest - 1, self.newest] {
            let slice = *self.slice(hour);
            if slice.hour == hour {
                all.count += slice.count;
                all.sum += slice.sum;
                all.up += slice.up;
                all.down += slice.down;
            }
        }
        let agreeing = if z > 0 { all.up } else { all.down };
        if agreeing < AGREEING || 2 * agreeing <= all.count {
            return 1.0;
        }
        let common = all.sum as f64 * z.signum() as f64 / f64::from(all.count) / PARTS;
        let own = (z.abs() as f64 / PARTS).max(GOES);
        1.0 / (1.0 - ((common - GOES) / own).clamp(0.0, MOST))
    }
}

impl Peers {
    /// Knows nothing of any sensor yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        let names = groups.names().map(str::to_owned).collect();
        Self {
            groups,
            names,
            ..Self::default()
        }
    }

    /// Whether there are no groups: then nobody has peers.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether it is in a group.
    pub fn has(&self, sensor: &SensorId) -> bool {
        self.groups.of(sensor).is_some()
    }

    /// Forgets all readings.
    pub fn clear(&mut self) {
        self.members.clear();
        self.commons.clear();
    }

    /// Takes in a reading of `sensor` with the plausible ones of its values, and gives by how much the
    /// lines of each (in the same order) are further away, because the others of its group went the
    /// same way. Nothing, if it is in no group.
    pub fn enter(
        &mut self,
        sensor: SensorId,
        time_ms: i64,
        values: impl Iterator<Item = (QuantityId, f32)>,
    ) -> SmallVec<[(QuantityId, f64); 2]> {
        let mut factors = SmallVec::new();
        if self.is_empty() {
            return factors;
        }
        let (groups, names) = (&self.groups, &self.names);
        let member = self.members.entry(sensor).or_insert_with(|| {
            let group = groups.of(&sensor);
            let number = group.and_then(|group| names.iter().position(|name| name == group));
            Member {
                group: number,
                latest: SmallVec::new(),
            }
        });
        let Some(group) = member.group else {
            return factors;
        };
        for (quantity, z) in values {
            #[allow(clippy::cast_possible_truncation, reason = "clipped")]
            let z = (f64::from(z).clamp(-CLIP, CLIP) * PARTS).round() as i64;
            let latest = Latest {
                quantity,
                hour: time_ms.div_euclid(HOUR_MS),
                z,
            };
            let common = self.commons.entry((group, quantity)).or_default();
            let known = member
                .latest
                .iter_mut()
                .find(|one| one.quantity == quantity);
            if let Some(known) = known {
                common.leave(*known);
                *known = latest;
            } else {
                member.latest.push(latest);
            }
            common.newest = common.newest.max(latest.hour);
            factors.push((quantity, common.factor(z)));
            common.enter(latest);
        }
        factors
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vigie_wire::{HUMIDITY, TEMPERATURE};

    use super::*;
    use crate::group::Config;

    fn hall() -> Peers {
        let group = Config {
            sensors: vec!["hall-*".to_owned()],
        };
        let groups = BTreeMap::from([("hall".to_owned(), group)]);
        Peers::new(Arc::new(Groups::new(&groups)))
    }

    fn sensor(number: u32) -> SensorId {
        format!("hall-{number}").as_str().try_into().unwrap()
    }

    /// The factor of the temperature.
    fn enter(peers: &mut Peers, number: u32, minute: i64, z: f32) -> f64 {
        let values = std::iter::once((TEMPERATURE, z));
        peers.enter(sensor(number), minute * 60_000, values)[0].1
    }

    #[test]
    fn who_goes_with_the_others_is_no_news() {
        let mut peers = hall();
        // (minute, what four others show, what one shows, its factor)
        for (minute, others, own, factor) in [
            (0, [0.2, -0.4, 0.1, 0.3], 6.0, 1.0),
            (10, [5.0, 5.0, 5.0, 5.0], 8.0, 2.0),
            (20, [5.0, 5.0, 5.0, 5.0], -8.0, 1.0),
            (30, [8.0, 8.0, 8.0, 8.0], 8.0, 4.0),
            // One or two broken ones are no heat wave, however far they are.
            (40, [90.0, 90.0, 0.0, 0.0], 8.0, 1.0),
            (50, [-3.0, -3.0, -3.0, 0.2], -5.0, 1.0 / (1.0 - 1.2 / 5.0)),
        ] {
            for (number, z) in (1..).zip(others) {
                enter(&mut peers, number, minute, z);
            }
            let got = enter(&mut peers, 0, minute, own);
            assert!((got - factor).abs() < 0.01, "minute {minute}: {got}");
        }
    }

    #[test]
    fn nobody_is_its_own_peer_and_a_pair_is_no_group() {
        let mut peers = hall();
        for minute in 0..30 {
            for number in 0..2 {
                assert!((enter(&mut peers, number, minute, 7.0) - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_was_hours_ago_is_no_evidence() {
        let mut peers = hall();
        for number in 1..5 {
            enter(&mut peers, number, 0, 7.0);
        }
        assert!(enter(&mut peers, 0, 30, 7.0) > 3.0);
        assert!(
            enter(&mut peers, 0, 90, 7.0) > 3.0,
            "the hour before counts"
        );
        assert!((enter(&mut peers, 0, 150, 7.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn strangers_and_other_quantities_are_not_asked() {
        let mut peers = hall();
        for number in 1..5 {
            enter(&mut peers, number, 0, 7.0);
        }
        let own = [(HUMIDITY, 7.0_f32), (TEMPERATURE, 7.0)];
        let factors = peers.enter(sensor(0), 60_000, own.into_iter());
        assert!((factors[0].1 - 1.0).abs() < 1e-9 && factors[1].1 > 3.0);
        let stranger = "cellar".try_into().unwrap();
        assert!(peers.enter(stranger, 60_000, own.into_iter()).is_empty());
        let mut none = Peers::default();
        assert!(none.enter(sensor(0), 0, own.into_iter()).is_empty());
    }

    /// A restart knows the newest reading of each sensor, in any order.
    #[test]
    fn the_newest_readings_are_all_there_is_to_know() {
        let mut whole = hall();
        let mut newest = BTreeMap::new();
        let mut number = 7_u64;
        for step in 0..2_000_i64 {
            number = number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let which = u32::try_from((number >> 33) % 9).unwrap();
            let z = f32::from(u16::try_from((number >> 20) % 1_600).unwrap()) / 100.0 - 8.0;
            // Pauses of up to five hours now and then.
            let minute = step * 7 + step.div_euclid(97) * 300;
            let before = enter(&mut whole, which, minute, z);
            newest.insert(which, (minute, z));
            if step % 50 == 49 {
                let mut again = hall();
                for (which, (minute, z)) in newest.iter().rev() {
                    enter(&mut again, *which, *minute, *z);
                }
                let next = enter(&mut again, 20, minute, 3.0).to_bits();
                let mut other = hall();
                for (which, (minute, z)) in &newest {
                    enter(&mut other, *which, *minute, *z);
                }
                assert_eq!(next, enter(&mut other, 20, minute, 3.0).to_bits());
                assert_eq!(
                    next,
                    enter(&mut whole, 20, minute, 3.0).to_bits(),
                    "{before}"
                );
                newest.insert(20, (minute, 3.0));
            }
        }
    }
}
