//! A whole node in time that runs as fast as it can: deep sleep, and what feeds the watchdog.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use embassy_futures::block_on;
use embassy_futures::join::join;
use embedded_storage_async::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, ReadNorFlash};
use vigie_wire::node::{Config, MAX_SENSORS, file};
use vigie_wire::{Quantities, Reading};

use super::{Ended, Node, Parts, Retained, Start, Timing};
use crate::emulated::{EmulatedFlash, FlashError};
use crate::testing::{Taking, Timed};
use crate::{
    AnySensor, Board as _, Counts, FEED_EVERY_MS, NoKeys, Quantity, Sensor, SensorError, Values,
};

const MINUTE: u64 = 60_000;

/// Always the same.
struct Steady(Quantity);

impl Sensor for Steady {
    async fn read(&mut self) -> Result<Values, SensorError> {
        Ok(vec![(self.0, 4.0)])
    }
}

/// As many sensors as a node has, each with an id of its own, and a battery.
fn config(more: &str) -> Config {
    let sensors = (1..=MAX_SENSORS)
        .map(|nth| format!("[[sensor]]\nid = \"S{nth}\"\nkind = \"sht3x\"\n"))
        .collect::<Vec<_>>()
        .concat();
    let text = format!(
        "id = \"C001\"\n{more}\n[broker]\nhost = \"x\"\ntls = false\n{sensors}\
         [battery]\npin = 2\ndivider = 2.0\n"
    );
    file::parse(&text, &|_| Err("none".into())).unwrap()
}

fn parts<'t, F, S>(
    board: &'t Timed,
    network: &'t Taking,
    queue_flash: F,
    facts_flash: S,
    config: Config,
) -> Parts<&'t Timed, &'t Taking, NoKeys, F, S> {
    let mut sensors: Vec<(usize, Box<dyn AnySensor>)> = Vec::new();
    for nth in 0..MAX_SENSORS {
        sensors.push((nth, Box::new(Steady(Quantity::Temperature))));
    }
    sensors.push((MAX_SENSORS, Box::new(Steady(Quantity::Battery))));
    Parts {
        board,
        network,
        keys: NoKeys,
        queue_flash,
        facts_flash,
        config,
        sensors,
        start: Start {
            firmware: "1.2.3".into(),
            reset: "power-on".into(),
            crash: None,
        },
        retained: None,
        timing: Timing::default(),
    }
}

// ---- Deep sleep ----

/// A chip that sleeps: what outlives that.
struct Sleeper {
    queue: EmulatedFlash,
    facts: EmulatedFlash,
    retained: Option<Retained>,
}

impl Sleeper {
    /// From the start to the sleep.
    fn wake(&mut self, network: &Taking) -> Counts {
        self.wake_and_join(network, None).0
    }

    /// The same; the network is there so many ms after the start, if it is not there all the time.
    /// Also for how long it was awake.
    fn wake_and_join(&mut self, network: &Taking, joined_ms: Option<u64>) -> (Counts, u64) {
        const INTERVAL_MS: u64 = 5 * MINUTE;
        let woke_ms = self
            .retained
            .map_or(1_234, |kept| kept.slept_at_ms + kept.sleep_ms);
        let board = Timed::at(woke_ms);
        let config = config("sleep = \"deep\"\ninterval = \"5m\"");
        let mut parts = parts(&board, network, &mut self.queue, &mut self.facts, config);
        parts.retained = self.retained.take();
        let work = join(
            async {
                let mut node = Node::open(parts).await.unwrap();
                (node.run().await, node.counts().await)
            },
            async {
                if let Some(joined_ms) = joined_ms {
                    (&board).sleep_until(woke_ms + joined_ms).await;
                    network.is_up.set(true);
                }
            },
        );
        let ((ended, counts), ()) = board.run(woke_ms + 2 * MINUTE, work).unwrap();
        let Ended::Sleep { for_ms, retained } = ended else {
            panic!("{ended:?}");
        };
        // Until the next reading is due, which is what the readings announce.
        assert_eq!(retained.sleep_ms, for_ms);
        assert_eq!((retained.slept_at_ms + for_ms) % INTERVAL_MS, 0);
        assert!(for_ms <= INTERVAL_MS);
        self.retained = Some(retained);
        assert!(board.hungry.get() <= FEED_EVERY_MS);
        (counts, retained.slept_at_ms - woke_ms)
    }
}

/// The readings that came, oldest first; all else is the status.
fn readings(network: &Taking) -> Vec<Reading> {
    let mut quantities = Quantities::builtin();
    quantities.push("battery").unwrap();
    let taken = network.taken.take();
    let (readings, status): (Vec<_>, Vec<_>) = taken
        .into_iter()
        .partition(|(topic, _)| topic.ends_with("/reading"));
    for message in status {
        assert_eq!(message, ("sensors/C001/status".into(), b"online".to_vec()));
    }
    readings
        .iter()
        .map(|(_, payload)| vigie_wire::decode(payload, &quantities).unwrap())
        .collect()
}

#[test]
fn a_node_that_sleeps_sends_all_that_waits_and_goes_on_where_it_was() {
    const IDS: usize = MAX_SENSORS + 1;
    let mut sleeper = Sleeper {
        queue: EmulatedFlash::erased(4),
        facts: EmulatedFlash::erased(2),
        retained: None,
    };
    let network = Taking::default();
    let ids = IDS as u64;

    // Nobody is there: it sleeps all the same, and keeps what it has.
    let counts = sleeper.wake(&network);
    assert_eq!((counts.readings, counts.waiting), (ids, ids));
    assert!(readings(&network).is_empty());

    // Then all goes out, the older before the newer, in one boot.
    network.is_up.set(true);
    let counts = sleeper.wake(&network);
    assert_eq!((counts.acknowledged, counts.waiting), (2 * ids, 0));
    let first = readings(&network);
    assert_eq!(first.len(), 2 * IDS);
    for (place, reading) in first.iter().enumerate() {
        assert_eq!(reading.seq, Some((place / IDS) as u64), "{reading:?}");
        assert_eq!(reading.sensor, first[place % IDS].sensor);
        assert_eq!(reading.boot, first[0].boot);
        assert_eq!(reading.next_s, Some(300));
        assert_eq!(reading.time_ms, None);
        assert_eq!(reading.start.is_some(), place == 0, "{reading:?}");
    }
    assert_eq!(first[IDS - 1].sensor.as_str(), "C001");

    // The time is asked for once, and comes through the sleep as well.
    network.utc_s.set(Some(1_795_608_000));
    sleeper.wake(&network);
    network.utc_s.set(None);
    sleeper.wake(&network);
    let second = readings(&network);
    assert_eq!(second.len(), 2 * IDS);
    for (place, reading) in second.iter().enumerate() {
        assert_eq!(reading.seq, Some(2 + (place / IDS) as u64), "{reading:?}");
        assert_eq!(reading.boot, first[0].boot);
        assert!(reading.start.is_none());
    }
    let times: Vec<i64> = second
        .iter()
        .map(|reading| reading.time_ms.unwrap())
        .collect();
    assert_eq!(times[0], 1_795_608_000_000);
    assert_eq!(times[IDS], times[0] + 300_000);
}

#[test]
fn a_node_that_sleeps_waits_for_its_network_and_sleeps_as_soon_as_all_is_sent() {
    let mut sleeper = Sleeper {
        queue: EmulatedFlash::erased(4),
        facts: EmulatedFlash::erased(2),
        retained: None,
    };
    let ids = MAX_SENSORS as u64 + 1;
    for wake in 0..3 {
        // A chip joins anew after each sleep.
        let network = Taking::default();
        let (counts, awake_ms) = sleeper.wake_and_join(&network, Some(3_000));
        assert_eq!((counts.acknowledged, counts.waiting), (ids, 0));
        assert!((3_000..3_500).contains(&awake_ms), "{awake_ms}");
        let seqs: Vec<_> = readings(&network).iter().map(|one| one.seq).collect();
        assert_eq!(seqs, vec![Some(wake); MAX_SENSORS + 1]);
    }
    // Nor for ever.
    let (counts, awake_ms) = sleeper.wake_and_join(&Taking::default(), None);
    assert_eq!(counts.waiting, ids);
    assert!((MINUTE..MINUTE + 1_000).contains(&awake_ms), "{awake_ms}");
}

// ---- What feeds the watchdog ----

/// Flash that never ends a write from some moment on.
struct Stuck<'s>(EmulatedFlash, &'s Cell<bool>);

impl ErrorType for Stuck<'_> {
    type Error = FlashError;
}

impl ReadNorFlash for Stuck<'_> {
    const READ_SIZE: usize = EmulatedFlash::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.0.read(offset, bytes).await
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl NorFlash for Stuck<'_> {
    const WRITE_SIZE: usize = EmulatedFlash::WRITE_SIZE;
    const ERASE_SIZE: usize = EmulatedFlash::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.0.erase(from, to).await
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        if self.1.get() {
            core::future::pending::<()>().await;
        }
        self.0.write(offset, bytes).await
    }
}

impl MultiwriteNorFlash for Stuck<'_> {}

/// When something happens to the node, and for how long it is watched.
const THEN: u64 = 60 * MINUTE;
const END: u64 = 2 * THEN;

/// What happens.
#[derive(Clone, Copy)]
struct Event {
    network_is_there: bool,
    queue_is_stuck: bool,
    facts_are_stuck: bool,
}

/// A node without a network for an hour, and then with this: the board, and how many readings it took.
fn watched(interval: &str, event: Event) -> (Timed, u64) {
    let board = Timed::at(0);
    let network = Taking::default();
    network.utc_s.set(Some(1_795_608_000));
    let (queue, facts) = (Cell::new(false), Cell::new(false));
    let config = config(&format!("interval = \"{interval}\""));
    let parts = parts(
        &board,
        &network,
        Stuck(EmulatedFlash::erased(104), &queue),
        Stuck(EmulatedFlash::erased(2), &facts),
        config,
    );
    let mut node = block_on(Node::open(parts)).unwrap();
    let life = join(node.run(), async {
        (&board).sleep_until(THEN).await;
        network.is_up.set(event.network_is_there);
        queue.set(event.queue_is_stuck);
        facts.set(event.facts_are_stuck);
    });
    assert!(board.run(END, life).is_none(), "it ended by itself");
    let readings = node.shared.counters.readings();
    drop(node);
    (board, readings)
}

#[test]
fn the_watchdog_is_fed_while_a_node_waits_as_long_as_it_may() {
    // Between two readings, and between two attempts to reach a broker.
    for (interval, network_is_there, readings) in [("10m", false, 13), ("1h", true, 3)] {
        let event = Event {
            network_is_there,
            queue_is_stuck: false,
            facts_are_stuck: false,
        };
        let (board, taken) = watched(interval, event);
        assert_eq!(board.hungry.get(), FEED_EVERY_MS);
        assert!(board.fed.get() + FEED_EVERY_MS >= END);
        assert_eq!(taken, readings * (MAX_SENSORS as u64 + 1));
    }
}

#[test]
fn the_watchdog_is_not_fed_when_sampling_or_uplink_is_stuck() {
    let stuck = |queue_is_stuck: bool| {
        let event = Event {
            network_is_there: !queue_is_stuck,
            queue_is_stuck,
            facts_are_stuck: !queue_is_stuck,
        };
        watched("10s", event)
    };
    let ids = MAX_SENSORS as u64 + 1;
    let by_then = (THEN / 10_000 + 1) * ids;
    // Sampling, at the reading after that.
    let (board, readings) = stuck(true);
    assert!(readings <= by_then + 1, "{readings}");
    let fed_ms = board.fed.get();
    assert!((THEN..THEN + 2 * MINUTE).contains(&fed_ms), "{fed_ms}");
    // The uplink, when it keeps the time of its next session, which begins within the longest pause.
    let (board, readings) = stuck(false);
    assert!(readings > by_then, "{readings}");
    let fed_ms = board.fed.get();
    assert!((THEN..THEN + 7 * MINUTE).contains(&fed_ms), "{fed_ms}");
}
