//! The sensors that one Stats actor owns: finds each reading's state, judges redeliveries, lets the
//! reading enter, notices who has gone silent. Pure: asks the store through [`Memory`].

use hashbrown::{HashMap, HashTable};
use std::sync::Arc;

use smallvec::SmallVec;
use vigie_wire::SensorId;
use xxhash_rust::xxh3::{Xxh3DefaultBuilder, xxh3_64};

use super::Config;
use super::hearing::Hearing;
use super::state::{Observed, SensorState, Standing};
use crate::batch::{Batch, Forget};
use crate::clock::STEP_MS;
use crate::quantity::Catalogue;
use crate::reading::{Arrival, Identity, Reading};
use crate::store;

/// What the store remembers of a sensor.
#[derive(Debug, Default)]
pub struct Recalled {
    /// The last snapshot.
    pub state: SensorState,
    /// The readings that entered after it, in the order in which they entered.
    pub since: Vec<Reading>,
}

impl Recalled {
    /// The state as it is now.
    pub fn replay(self, catalogue: &Catalogue, config: &Config) -> SensorState {
        let mut state = self.state;
        for reading in &self.since {
            state.enter(reading, catalogue, config);
        }
        state
    }
}

/// A sensor of which only the store knows more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resting {
    /// When it was last heard (a snapshot's word: it may be a few readings old).
    pub received_ms: i64,
    /// Its expected gap; `None` if not learned yet.
    pub expected_ms: Option<i64>,
    /// The batch in which its present silence was told.
    pub silence_told: Option<u64>,
}

impl Resting {
    /// Of a sensor in this state.
    pub fn of(state: &SensorState) -> Self {
        Self {
            received_ms: state.received_ms,
            expected_ms: state.expected_gap_ms(),
            silence_told: None,
        }
    }
}

/// A state as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// See [`store::encode_state`].
    pub bytes: Vec<u8>,
    /// What is known of the sensor without reading them.
    pub resting: Resting,
}

impl Snapshot {
    /// Of a sensor in this state.
    ///
    /// # Errors
    /// See [`store::encode_state`].
    pub fn of(state: &SensorState) -> Result<Self, store::Error> {
        Ok(Self {
            bytes: store::encode_state(state)?,
            resting: Resting::of(state),
        })
    }
}

/// What Stats asks of the store. Reads only what is committed. By default there is nothing.
pub trait Memory {
    /// The sensor's snapshot and the readings since; `None` if it was never seen.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn recall(&self, _sensor: &SensorId) -> Result<Option<Recalled>, store::Error> {
        Ok(None)
    }

    /// Is this reading stored already, by its identity?
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn knows(&self, _reading: &Reading) -> Result<bool, store::Error> {
        Ok(false)
    }

    /// Every sensor that was ever seen.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    fn inventory(&self) -> Result<Vec<(SensorId, Resting)>, store::Error> {
        Ok(Vec::new())
    }
}

/// What Stats found of one arrival of the batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Entered the state as its next reading.
    Entered(Observed),
    /// Older than the newest; the store checks whether it is new at all.
    Late(Observed),
    /// Known already.
    Duplicate,
    /// Not taken in: more sensors than the config allows.
    TooManySensors,
}

/// A sensor that has not been heard for longer than its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Silence {
    /// Who.
    pub sensor: SensorId,
    /// When it was last heard, or since when the engine has been listening.
    pub since_ms: i64,
    /// How long between readings was to be expected.
    pub expected_ms: i64,
}

/// What one share makes of a batch.
#[derive(Debug)]
pub struct Part {
    /// The batch; its arrivals of other shares are not in `found`.
    pub batch: Arc<Batch>,
    /// By index into the batch's arrivals, ascending.
    pub found: Vec<(u32, Finding)>,
    /// States to be written with the batch.
    pub snapshots: Vec<(SensorId, Snapshot)>,
    /// Who has gone silent since the last batch.
    pub silent: Vec<Silence>,
    /// Sensors that the share knows.
    pub known: usize,
}

#[derive(Debug)]
struct Resident {
    sensor: SensorId,
    state: SensorState,
    /// Batch in which it was last touched.
    touched: u64,
    /// When a late reading of it was received, which the state does not know.
    late_ms: i64,
    /// The batch in which its present silence was told.
    silence_told: Option<u64>,
}

impl Resident {
    /// When it was last heard, whatever its clock says.
    fn heard_ms(&self) -> i64 {
        self.state.received_ms.max(self.late_ms)
    }

    /// When it is overdue if it is not heard any more, and everybody could have heard it;
    /// [`i64::MAX`] while nothing is expected.
    fn overdue_ms(&self, line: SilenceLine) -> i64 {
        let expected_ms = self.state.expected_gap_ms();
        expected_ms.map_or(i64::MAX, |expected| {
            self.heard_ms().saturating_add(line.ms(expected))
        })
    }
}

/// Sensors in memory, by the hash of their ids. A table of pointers: with states in it, it would not
/// fit the cache; with hashes in it, nothing has to be fetched to find the right one.
#[derive(Debug, Default)]
struct Residents(HashTable<(u64, Box<Resident>)>);

impl Residents {
    fn hash(sensor: &SensorId) -> u64 {
        xxh3_64(sensor.as_bytes())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Resident> {
        self.0.iter().map(|(_, resident)| resident.as_ref())
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Resident> {
        self.0.iter_mut().map(|(_, resident)| resident.as_mut())
    }

    /// Who is there by that hash: almost surely the one that is meant.
    fn guess(&self, hash: u64) -> Option<&Resident> {
        let found = self.0.find(hash, |(other, _)| *other == hash);
        found.map(|(_, resident)| resident.as_ref())
    }

    fn get_mut(&mut self, hash: u64, sensor: &SensorId) -> Option<&mut Resident> {
        let is_it = |(_, resident): &(u64, Box<Resident>)| resident.sensor == *sensor;
        Some(self.0.find_mut(hash, is_it)?.1.as_mut())
    }

    /// `resident` must not be there yet.
    fn insert(&mut self, resident: Resident) {
        let hash = Self::hash(&resident.sensor);
        let entry = (hash, Box::new(resident));
        self.0.insert_unique(hash, entry, |(hash, _)| *hash);
    }

    fn remove(&mut self, sensor: &SensorId) -> Option<Box<Resident>> {
        let hash = Self::hash(sensor);
        let is_it = |(_, resident): &(u64, Box<Resident>)| resident.sensor == *sensor;
        Some(self.0.find_entry(hash, is_it).ok()?.remove().0.1)
    }
}

/// The sensors of one Stats actor.
#[derive(Debug)]
pub struct Share<M> {
    index: u64,
    shares: u64,
    memory: M,
    catalogue: Arc<Catalogue>,
    config: Config,
    silence: SilenceLine,
    residents: Residents,
    resting: HashMap<SensorId, Resting, Xxh3DefaultBuilder>,
    hearing: Arc<Hearing>,
    last_check_ms: i64,
    /// The hearing's `since_ms` then.
    listening_ms: i64,
    /// Nobody is overdue before this time, unless one of those two goes back or changes. (Who was last
    /// heard by a clock that was set back since may be told up to a minute late.)
    none_overdue_ms: i64,
    batches: u64,
    /// Identities that entered lately after the store was asked: it may not have them yet.
    /// With the batch in which they did.
    asked: HashMap<(SensorId, Identity), u64, Xxh3DefaultBuilder>,
    epoch: u64,
}

/// A reading of a sensor of this share: its index in the batch, the hash of the sensor.
type Own<'a> = (u32, u64, &'a Reading);

/// Arrivals whose states are fetched from memory at once.
const AHEAD: usize = 16;

/// No more batches than this can be between Stats and the store, a restart of Ingest included.
const UNDER_WAY: u64 = 4;

/// After a start, the time that sensors have to find back: clients wait up to a minute between
/// two attempts to connect.
const RECONNECT_MS: i64 = 60_000;

/// When a sensor counts as silent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SilenceLine {
    /// After so many expected gaps …
    pub gaps: f64,
    /// … but never before this time.
    pub least_ms: i64,
}

impl SilenceLine {
    /// The longest wait that is still normal.
    pub fn ms(self, expected_ms: i64) -> i64 {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "years of milliseconds fit in 53 bits"
        )]
        let line = (expected_ms as f64 * self.gaps) as i64;
        line.max(self.least_ms)
    }
}

/// Which of `shares` owns the sensor of this hash.
fn share_of(hash: u64, shares: u64) -> u64 {
    hash % shares
}

/// How far a sensor is on the way to its next snapshot when it starts: a fleet that starts together
/// must not write all its states at once.
fn phase(hash: u64, every: u64) -> u64 {
    // Turned, for the hash as it is decides about the share.
    hash.rotate_left(32) % every
}

impl<M: Memory> Share<M> {
    /// Share `index` of `shares`.
    ///
    /// # Errors
    /// [`store::Error`] if the inventory cannot be read.
    pub fn new(
        (index, shares): (u64, u64),
        memory: M,
        catalogue: Arc<Catalogue>,
        config: Config,
        silence: SilenceLine,
        hearing: Arc<Hearing>,
        epoch: u64,
    ) -> Result<Self, store::Error> {
        let mut resting = memory.inventory()?;
        resting.retain(|(sensor, _)| share_of(Residents::hash(sensor), shares) == index);
        Ok(Self {
            index,
            shares,
            memory,
            catalogue,
            config,
            silence,
            residents: Residents::default(),
            resting: resting.into_iter().collect(),
            hearing,
            last_check_ms: i64::MIN,
            listening_ms: i64::MIN,
            none_overdue_ms: i64::MIN,
            batches: 0,
            asked: HashMap::default(),
            epoch,
        })
    }

    /// Sensors known to this share.
    pub fn known(&self) -> usize {
        self.residents.len() + self.resting.len()
    }

    /// Takes a batch in: looks at the arrivals of its own sensors.
    ///
    /// # Errors
    /// [`store::Error`] if a state cannot be read: the batch must be refused, and this share
    /// built anew.
    pub fn take(&mut self, batch: &Arc<Batch>) -> Result<Part, store::Error> {
        self.batches += 1;
        self.forget(batch);
        let batches = self.batches;
        self.asked
            .retain(|_, entered| *entered + UNDER_WAY >= batches);
        let mut part = Part {
            batch: Arc::clone(batch),
            found: Vec::with_capacity(batch.arrivals.len()),
            snapshots: Vec::new(),
            silent: Vec::new(),
            known: 0,
        };
        let chunks = batch.arrivals.chunks(AHEAD);
        for (first, ahead) in (0_u32..).step_by(AHEAD).zip(chunks) {
            let mut own: SmallVec<[Own<'_>; AHEAD]> = SmallVec::new();
            for (index, arrival) in (first..).zip(ahead) {
                if let Arrival::Reading(reading) = arrival {
                    let hash = Residents::hash(&reading.sensor);
                    if share_of(hash, self.shares) == self.index {
                        own.push((index, hash, reading));
                    }
                }
            }
            self.fetch(&own);
            for one in own {
                self.observe(one, &mut part)?;
            }
        }
        // Time may go back: somebody may set the clock.
        if batch
            .now_ms
            .saturating_sub(self.last_check_ms)
            .unsigned_abs()
            >= 1000
        {
            part.silent = self.silent(batch.now_ms)?;
        }
        self.put_to_sleep();
        part.known = self.known();
        Ok(part)
    }

    /// Brings the states of the next arrivals from memory into the cache, all at once instead of
    /// one after the other: with thousands of sensors none of them is there yet. Nothing here is
    /// decided by what is being fetched, for a processor that guesses wrong fetches anew.
    fn fetch(&self, ahead: &[Own<'_>]) {
        let residents: SmallVec<[&Resident; AHEAD]> = ahead
            .iter()
            .filter_map(|(_, hash, _)| self.residents.guess(*hash))
            .collect();
        let touched = residents.iter().fold(0, |sum, resident| {
            sum ^ resident.touched ^ resident.state.touch()
        });
        let pointed = residents
            .iter()
            .fold(0, |sum, resident| sum ^ resident.state.touch_beyond());
        std::hint::black_box((touched, pointed));
    }

    /// States that were computed from refused readings come back from the store, and what was told
    /// with a refused batch is told again.
    fn forget(&mut self, batch: &Batch) {
        let forget = batch.catch_up(&mut self.epoch);
        if forget.is_some() {
            self.asked.clear();
            self.none_overdue_ms = i64::MIN;
            let recent = self.batches.saturating_sub(UNDER_WAY);
            for resident in self.residents.iter_mut() {
                resident.silence_told.take_if(|told| *told >= recent);
            }
            for resting in self.resting.values_mut() {
                resting.silence_told.take_if(|told| *told >= recent);
            }
        }
        match forget {
            None => {}
            Some(Forget::Sensors(sensors)) => {
                for sensor in sensors {
                    self.rest(&sensor);
                }
            }
            Some(Forget::Everything) => {
                let residents = self.residents.iter();
                let all: Vec<SensorId> = residents.map(|resident| resident.sensor).collect();
                for sensor in all {
                    self.rest(&sensor);
                }
            }
        }
    }

    fn rest(&mut self, sensor: &SensorId) {
        if let Some(resident) = self.residents.remove(sensor) {
            let resting = Resting {
                silence_told: resident.silence_told,
                ..Resting::of(&resident.state)
            };
            // Late readings are forgotten with it.
            self.none_overdue_ms = i64::MIN;
            self.resting.insert(*sensor, resting);
        }
    }

    fn observe(
        &mut self,
        (index, hash, reading): Own<'_>,
        part: &mut Part,
    ) -> Result<(), store::Error> {
        // Findings are large: each is made where it stays.
        let found = &mut part.found;
        if self.residents.get_mut(hash, &reading.sensor).is_none() {
            self.wake(&reading.sensor)?;
        }
        let Some(resident) = self.residents.get_mut(hash, &reading.sensor) else {
            found.push((index, Finding::TooManySensors));
            return Ok(());
        };
        resident.touched = self.batches;
        let mut standing = resident.state.standing(reading);
        if standing == Standing::AskStore {
            let here = (reading.sensor, reading.identity);
            if self.asked.contains_key(&here) || self.memory.knows(reading)? {
                standing = Standing::Duplicate;
            } else {
                self.asked.insert(here, self.batches);
            }
        }
        match standing {
            Standing::Duplicate => found.push((index, Finding::Duplicate)),
            Standing::Late => {
                // Whatever its clock says, the sensor is alive.
                resident.late_ms = resident.late_ms.max(reading.received_ms);
                resident.silence_told = None;
                let overdue_ms = resident.overdue_ms(self.silence);
                self.none_overdue_ms = self.none_overdue_ms.min(overdue_ms);
                let state = &resident.state;
                let observed = state.look_back(reading, &self.catalogue, &self.config);
                found.push((index, Finding::Late(observed)));
            }
            Standing::InOrder | Standing::AskStore => {
                found.push((index, Finding::Entered(Observed::default())));
                let Some((_, Finding::Entered(observed))) = found.last_mut() else {
                    return Ok(());
                };
                let state = &mut resident.state;
                state.enter_into(observed, reading, &self.catalogue, &self.config);
                let (entered, started) = (observed.entered, observed.started);
                resident.silence_told = None;
                let overdue_ms = resident.overdue_ms(self.silence);
                self.none_overdue_ms = self.none_overdue_ms.min(overdue_ms);
                let every = u64::from(self.config.snapshot_every);
                let due = (entered + phase(hash, every)).is_multiple_of(every);
                // Who asks about a device reads the snapshot only.
                if started || due {
                    let snapshot = Snapshot::of(&resident.state)?;
                    part.snapshots.push((reading.sensor, snapshot));
                } else if entered == 1 {
                    let snapshot = Snapshot::of(&resident.state.announced())?;
                    part.snapshots.push((reading.sensor, snapshot));
                }
            }
        }
        Ok(())
    }

    /// Brings a sensor's state into memory, unless it is a new one and there is no room.
    fn wake(&mut self, sensor: &SensorId) -> Result<(), store::Error> {
        let resting = self.resting.get(sensor).copied();
        // The limit is split evenly: ids are spread over the shares by their hash.
        let limit = u64::from(self.config.max_sensors).div_ceil(self.shares);
        if resting.is_none() && self.known() as u64 >= limit {
            return Ok(());
        }
        let mut resident = Resident {
            sensor: *sensor,
            state: SensorState::default(),
            touched: self.batches,
            late_ms: i64::MIN,
            silence_told: resting.and_then(|resting| resting.silence_told),
        };
        // Also of one that is new here: its first readings may have been stored since the inventory.
        if let Some(recalled) = self.memory.recall(sensor)? {
            resident.state = recalled.replay(&self.catalogue, &self.config);
        }
        self.resting.remove(sensor);
        let overdue_ms = resident.overdue_ms(self.silence);
        self.none_overdue_ms = self.none_overdue_ms.min(overdue_ms);
        self.residents.insert(resident);
        Ok(())
    }

    /// Who has gone silent since the last look. Looks only if somebody can have.
    fn silent(&mut self, now_ms: i64) -> Result<Vec<Silence>, store::Error> {
        let (line, listening) = (self.silence, self.hearing.since_ms());
        let as_before = now_ms >= self.last_check_ms && listening == self.listening_ms;
        (self.last_check_ms, self.listening_ms) = (now_ms, listening);
        if as_before && now_ms <= self.none_overdue_ms {
            return Ok(Vec::new());
        }
        let since = |received_ms: i64| match received_ms {
            // Recorded times are as they are.
            heard if listening == i64::MIN => heard,
            // Much later than now is by a clock that was set back since; by less than a step, nobody
            // was told of that.
            heard if heard >= listening && heard <= now_ms.saturating_add(STEP_MS) => heard,
            _ => listening.saturating_add(RECONNECT_MS),
        };
        let overdue_ms = |received_ms: i64, expected_ms: Option<i64>| {
            expected_ms.map_or(i64::MAX, |expected| {
                since(received_ms).saturating_add(line.ms(expected))
            })
        };
        // A resting sensor's word is a few readings old: look closer before speaking.
        let mut next_ms = i64::MAX;
        let mut suspects = Vec::new();
        for (sensor, resting) in &self.resting {
            if resting.silence_told.is_some() {
                continue;
            }
            let overdue_ms = overdue_ms(resting.received_ms, resting.expected_ms);
            if overdue_ms < now_ms && suspects.len() < 1024 {
                suspects.push(*sensor);
            } else {
                next_ms = next_ms.min(overdue_ms);
            }
        }
        for sensor in &suspects {
            self.wake(sensor)?;
        }
        let mut silent = Vec::new();
        for resident in self.residents.iter_mut() {
            if resident.silence_told.is_some() {
                continue;
            }
            let (heard_ms, expected) = (resident.heard_ms(), resident.state.expected_gap_ms());
            let overdue_ms = overdue_ms(heard_ms, expected);
            match expected {
                Some(expected_ms) if overdue_ms < now_ms => {
                    resident.silence_told = Some(self.batches);
                    let since_ms = since(heard_ms);
                    silent.push(Silence {
                        sensor: resident.sensor,
                        since_ms,
                        expected_ms,
                    });
                }
                _ => next_ms = next_ms.min(overdue_ms),
            }
        }
        self.none_overdue_ms = next_ms;
        silent.sort_unstable_by_key(|silence| silence.sensor);
        Ok(silent)
    }

    /// When the next sensor will be overdue that is not known to be silent yet; of those in memory.
    pub fn overdue_ms(&self) -> Option<i64> {
        let untold = self.residents.iter();
        let untold = untold.filter(|resident| resident.silence_told.is_none());
        let first = untold
            .map(|resident| resident.overdue_ms(self.silence))
            .min();
        first.filter(|first| *first < i64::MAX)
    }

    /// Keeps the number of states in memory bounded. What the last two batches touched stays: it
    /// may not be stored yet.
    fn put_to_sleep(&mut self) {
        let limit = u64::from(self.config.max_resident).div_ceil(self.shares);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.residents.len() <= limit {
            return;
        }
        let mut idle: Vec<(u64, SensorId)> = self
            .residents
            .iter()
            .filter(|resident| resident.touched + UNDER_WAY < self.batches)
            .map(|resident| (resident.touched, resident.sensor))
            .collect();
        idle.sort_unstable();
        let excess = self.residents.len() - limit + limit / 8;
        for (_, sensor) in idle.into_iter().take(excess) {
            self.rest(&sensor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Epochs;
    use crate::reading::Outcome;
    use crate::stats::state;

    fn reading(seq: u64) -> Reading {
        state::tests::reading(seq, seq.cast_signed() * 10_000, 21.0)
    }

    fn share<M: Memory>(memory: M, hearing: &Arc<Hearing>) -> Share<M> {
        let line = SilenceLine {
            gaps: 4.0,
            least_ms: 5_000,
        };
        let (catalogue, config) = (Arc::default(), Config::default());
        let hearing = Arc::clone(hearing);
        Share::new((0, 1), memory, catalogue, config, line, hearing, 0).unwrap()
    }

    /// Has stored five readings of a sensor since the inventory was made.
    #[derive(Debug)]
    struct Later;

    impl Memory for Later {
        fn recall(&self, _: &SensorId) -> Result<Option<Recalled>, store::Error> {
            Ok(Some(Recalled {
                state: SensorState::default(),
                since: (0..5).map(reading).collect(),
            }))
        }
    }

    #[test]
    fn a_sensor_that_the_inventory_does_not_have_yet_goes_on_where_it_was() {
        let mut share = share(Later, &Arc::new(Hearing::since(i64::MIN)));
        let arrivals = Arc::new(vec![Arrival::Reading(reading(5))]);
        let (batch, _answer) = Batch::new(arrivals, 0, &Arc::new(Epochs::default()));
        let part = share.take(&batch).unwrap();
        let entered = match &part.found[..] {
            [(0, Finding::Entered(observed))] => observed.entered,
            other => panic!("{other:?}"),
        };
        assert_eq!(entered, 6);
    }

    /// Has nothing.
    #[derive(Debug)]
    struct Nothing;

    impl Memory for Nothing {}

    /// Every ten seconds a reading, and silent after forty.
    #[test]
    fn the_silent_are_found_in_time_whatever_comes_between() {
        let hearing = Arc::new(Hearing::since(0));
        let mut share = share(Nothing, &hearing);
        let epochs = Arc::new(Epochs::default());
        let mut tell = |now_ms: i64, readings: &[u64]| {
            let arrivals = readings.iter().map(|seq| Arrival::Reading(reading(*seq)));
            let (batch, _answer) = Batch::new(Arc::new(arrivals.collect()), now_ms, &epochs);
            let silent = share.take(&batch).unwrap().silent;
            batch.commit(vec![Outcome::Stored; readings.len()]);
            silent.first().map(|silence| silence.since_ms)
        };
        // The state hears a reading 20 ms after its time.
        for seq in 0..10_u64 {
            assert_eq!(tell(seq.cast_signed() * 10_000 + 20, &[seq]), None);
        }
        for now_ms in (91_020..=130_020).step_by(1_000) {
            assert_eq!(tell(now_ms, &[]), None, "{now_ms}");
        }
        assert_eq!(tell(131_020, &[]), Some(90_020));
        assert_eq!(tell(132_020, &[]), None, "told once");
        // It speaks, and is silent again.
        assert_eq!(tell(150_020, &[15]), None);
        assert_eq!(tell(190_020, &[]), None);
        assert_eq!(tell(191_020, &[]), Some(150_020));
        assert_eq!(tell(200_020, &[20]), None);
        // A clock that is set back a little makes nobody silent.
        assert_eq!(tell(197_000, &[]), None);
        // What cannot be heard is not silent, and has a minute to find back.
        hearing.lost();
        assert_eq!(tell(300_020, &[]), None);
        hearing.regained(301_000);
        assert_eq!(tell(401_000, &[]), None);
        assert_eq!(tell(402_000, &[]), Some(361_000));
        assert_eq!(tell(410_020, &[41]), None);
        // The clock is set back: its last reading is of a time to come now. After three long gaps 25 s
        // are to be expected.
        hearing.stepped(100_000);
        assert_eq!(tell(100_000, &[]), None);
        assert_eq!(tell(260_000, &[]), None);
        assert_eq!(tell(261_000, &[]), Some(160_000));
    }
}
