//! What the sensors of a declared group do together is evidence: where the others go the same way,
//! one of them is no news. Pure.
//!
//! Only where each value was last counts, as the sensor's state has it: after a restart the sums are
//! the same, in whatever order they are made. That is why they are whole numbers.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;
use vigie_wire::{QuantityId, SensorId};
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

use crate::group::Groups;
use crate::stats::channel::Course;

const HOUR_MS: i64 = 3_600_000;
/// Parts of a line that are told apart.
const PARTS: f64 = 1024.0;
/// So many lines away one sensor says no more.
const CLIP: f64 = 2.0;
/// From this share of its line on a sensor goes somewhere.
const GOES: f64 = 0.3;
/// So many others at least, and more than half of them, must go the same way.
const AGREEING: u32 = 2;
/// A common movement explains at most this share of a distance.
const MOST: f64 = 0.75;

/// A [`Course`] in parts.
type Parts = [i64; 3];

/// Where one quantity of one sensor was last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Latest {
    quantity: QuantityId,
    hour: i64,
    parts: Parts,
}

impl Latest {
    fn of(quantity: QuantityId, at_ms: i64, course: Course) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "clipped")]
        let parts =
            course.map(|share| (f64::from(share).clamp(-CLIP, CLIP) * PARTS).round() as i64);
        Self {
            quantity,
            hour: at_ms.div_euclid(HOUR_MS),
            parts,
        }
    }
}

#[derive(Debug, Default)]
struct Member {
    /// Number of its group; `None`: it is in none.
    group: Option<usize>,
    latest: SmallVec<[Latest; 2]>,
}

/// How many go where, for one of the three rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    sum: i64,
    up: u32,
    down: u32,
}

/// All sensors of a group whose newest reading is of one hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slice {
    hour: i64,
    count: u32,
    ways: [Way; 3],
}

/// One quantity of one group: the newest hour and the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Common {
    newest: i64,
    slices: [Slice; 2],
}

/// By how much lines are further away: of season, level and z.
pub type Factors = [f64; 3];

/// Who goes where in each group.
#[derive(Debug, Default)]
pub struct Peers {
    groups: Arc<Groups>,
    members: HashMap<SensorId, Member, Xxh3DefaultBuilder>,
    commons: HashMap<(usize, QuantityId), Common, Xxh3DefaultBuilder>,
}

impl Way {
    /// `by`: 1 or −1.
    fn count(&mut self, parts: i64, by: i32) {
        self.sum += i64::from(by) * parts;
        if (parts.abs() as f64) >= GOES * PARTS {
            let number = if parts > 0 {
                &mut self.up
            } else {
                &mut self.down
            };
            *number = number.saturating_add_signed(by);
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            up: self.up + other.up,
            down: self.down + other.down,
        }
    }

    /// By how much the line is further away for who is at `own`, while `count` others are here.
    fn factor(self, own: i64, count: u32) -> f64 {
        let agreeing = if own > 0 { self.up } else { self.down };
        if own == 0 || agreeing < AGREEING || 2 * agreeing <= count {
            return 1.0;
        }
        let common = (self.sum * own.signum()) as f64 / f64::from(count);
        1.0 / (1.0 - (common / own.abs() as f64).clamp(0.0, MOST))
    }
}

impl Slice {
    fn count(&mut self, parts: Parts, by: i32) {
        self.count = self.count.saturating_add_signed(by);
        for (way, parts) in self.ways.iter_mut().zip(parts) {
            way.count(parts, by);
        }
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
            slice.count(latest.parts, 1);
        }
    }

    fn leave(&mut self, latest: Latest) {
        let slice = self.slice(latest.hour);
        if slice.hour == latest.hour {
            slice.count(latest.parts, -1);
        }
    }

    fn factors(&mut self, own: Parts) -> Factors {
        let mut all = Slice::default();
        for hour in [self.newest - 1, self.newest] {
            let slice = *self.slice(hour);
            if slice.hour == hour {
                all.count += slice.count;
                for (way, other) in all.ways.iter_mut().zip(slice.ways) {
                    *way = way.and(other);
                }
            }
        }
        std::array::from_fn(|rule| all.ways[rule].factor(own[rule], all.count))
    }
}

impl Peers {
    /// Knows nothing of any sensor yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            ..Self::default()
        }
    }

    /// Whether there are no groups: then nobody has peers.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
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

    /// Takes in where plausible values of `sensor` are, and when, and gives by how much the lines of
    /// each are further away, because the others of its group went the same way. Nothing, if it is in
    /// no group.
    pub fn enter(
        &mut self,
        sensor: SensorId,
        values: impl Iterator<Item = (QuantityId, i64, Course)>,
    ) -> SmallVec<[(QuantityId, Factors); 2]> {
        let mut factors = SmallVec::new();
        if self.is_empty() {
            return factors;
        }
        let groups = &self.groups;
        let member = self.members.entry(sensor).or_insert_with(|| Member {
            group: groups.number_of(&sensor),
            latest: SmallVec::new(),
        });
        let Some(group) = member.group else {
            return factors;
        };
        for (quantity, at_ms, course) in values {
            let latest = Latest::of(quantity, at_ms, course);
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
            factors.push((quantity, common.factors(latest.parts)));
            common.enter(latest);
        }
        factors
    }

    /// `sensor` is where it was before. To be followed by [`Peers::count_anew`].
    pub fn put_back(
        &mut self,
        sensor: SensorId,
        values: impl Iterator<Item = (QuantityId, i64, Course)>,
    ) {
        if let Some(member) = self.members.get_mut(&sensor) {
            member.latest = values
                .map(|(q, at, course)| Latest::of(q, at, course))
                .collect();
        }
    }

    /// Makes the sums of the groups of `sensors` anew: an hour that began with what was undone has
    /// taken the place of another.
    pub fn count_anew(&mut self, sensors: &[SensorId]) {
        let members = sensors.iter().filter_map(|sensor| self.members.get(sensor));
        let groups: SmallVec<[usize; 4]> = members.filter_map(|member| member.group).collect();
        self.commons.retain(|(group, _), _| !groups.contains(group));
        for member in self.members.values() {
            let Some(group) = member.group.filter(|group| groups.contains(group)) else {
                continue;
            };
            for latest in &member.latest {
                let common = self.commons.entry((group, latest.quantity)).or_default();
                common.newest = common.newest.max(latest.hour);
                common.enter(*latest);
            }
        }
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

    /// The factor of the temperature's level.
    fn enter(peers: &mut Peers, number: u32, minute: i64, level: f32) -> f64 {
        let values = std::iter::once((TEMPERATURE, minute * 60_000, [0.0, level, 0.0]));
        let [season, level, z] = peers.enter(sensor(number), values)[0].1;
        assert!(
            (season - 1.0).abs() + (z - 1.0).abs() < 1e-9,
            "each rule for itself"
        );
        level
    }

    #[test]
    fn who_goes_with_the_others_is_no_news() {
        let mut peers = hall();
        // (minute, where four others are, where one is, its factor)
        for (minute, others, own, factor) in [
            (0, [0.1, -0.2, 0.1, 0.1], 1.5, 1.0),
            (10, [0.8, 0.8, 0.8, 0.8], 1.6, 2.0),
            (20, [0.8, 0.8, 0.8, 0.8], -1.6, 1.0),
            (30, [1.6, 1.6, 1.6, 1.6], 1.6, 4.0),
            // Two broken ones are no heat wave, however far they are.
            (40, [90.0, 90.0, 0.0, 0.0], 1.5, 1.0),
            (50, [-0.8, -0.8, -0.8, 0.0], -1.2, 2.0),
        ] {
            for (number, z) in (1..).zip(others) {
                enter(&mut peers, number, minute, z);
            }
            let got = enter(&mut peers, 0, minute, own);
            assert!((got - factor).abs() < 0.01, "minute {minute}: {got}");
        }
    }

    #[test]
    fn what_was_refused_leaves_no_trace() {
        let at =
            |minute: i64, level| std::iter::once((TEMPERATURE, minute * 60_000, [0.0, level, 0.0]));
        let (mut calm, mut refused) = (hall(), hall());
        for peers in [&mut calm, &mut refused] {
            for (number, minute) in [(1, 10), (2, 70), (3, 80), (4, 20)] {
                enter(peers, number, minute, 0.8);
            }
        }
        // It begins an hour that takes the place of the first one.
        enter(&mut refused, 4, 130, -1.9);
        refused.put_back(sensor(4), at(20, 0.8));
        refused.count_anew(&[sensor(4)]);
        for (number, minute) in [(0, 85), (4, 90), (0, 95)] {
            let (a, b) = (
                enter(&mut calm, number, minute, 1.5),
                enter(&mut refused, number, minute, 1.5),
            );
            assert!((a - b).abs() < 1e-12 && a > 1.0, "{a} {b}");
        }
    }

    #[test]
    fn nobody_is_its_own_peer_and_a_pair_is_no_group() {
        let mut peers = hall();
        for minute in 0..30 {
            for number in 0..2 {
                assert!((enter(&mut peers, number, minute, 1.7) - 1.0).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_was_hours_ago_is_no_evidence() {
        let mut peers = hall();
        for number in 1..5 {
            enter(&mut peers, number, 0, 1.7);
        }
        assert!(enter(&mut peers, 0, 30, 1.7) > 3.0);
        assert!(
            enter(&mut peers, 0, 90, 1.7) > 3.0,
            "the hour before counts"
        );
        assert!((enter(&mut peers, 0, 150, 1.7) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn strangers_and_other_quantities_are_not_asked() {
        let mut peers = hall();
        for number in 1..5 {
            enter(&mut peers, number, 0, 1.7);
        }
        let course = [0.0, 1.7, 0.0];
        let own = [(HUMIDITY, 60_000, course), (TEMPERATURE, 60_000, course)];
        let factors = peers.enter(sensor(0), own.into_iter());
        assert!((factors[0].1[1] - 1.0).abs() < 1e-9 && factors[1].1[1] > 3.0);
        let stranger = "cellar".try_into().unwrap();
        assert!(peers.enter(stranger, own.into_iter()).is_empty());
        let mut none = Peers::default();
        assert!(none.enter(sensor(0), own.into_iter()).is_empty());
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
            let z = f32::from(u16::try_from((number >> 20) % 400).unwrap()) / 100.0 - 2.0;
            // Pauses of up to five hours now and then.
            let minute = step * 7 + step.div_euclid(97) * 300;
            let before = enter(&mut whole, which, minute, z);
            newest.insert(which, (minute, z));
            if step % 50 == 49 {
                let mut again = hall();
                for (which, (minute, z)) in newest.iter().rev() {
                    enter(&mut again, *which, *minute, *z);
                }
                let next = enter(&mut again, 20, minute, 0.9).to_bits();
                let mut other = hall();
                for (which, (minute, z)) in &newest {
                    enter(&mut other, *which, *minute, *z);
                }
                assert_eq!(next, enter(&mut other, 20, minute, 0.9).to_bits());
                assert_eq!(
                    next,
                    enter(&mut whole, 20, minute, 0.9).to_bits(),
                    "{before}"
                );
                newest.insert(20, (minute, 0.9));
            }
        }
    }
}
