//! What one connection publishes: which reading is next, which wait for their PUBACK, which must be
//! sent again. No socket and no waiting in here.
//!
//! A reading is a pure function of the fleet, its sensor and its number, so a publish in flight is
//! remembered as those two and encoded again when the connection was lost.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;
use vigie_wire::{BootId, HUMIDITY, Quantities, Reading, SensorId, TEMPERATURE, Values, topic};

use super::fleet::Fleet;
use super::packet::{Protocol, PublishHeader, Qos, put_publish};

/// Bytes after which a lane stops filling its buffer, so that one write takes it.
const CHUNK: usize = 63 * 1024;
/// Packet ids there are: 1 to 65,535.
const PACKET_IDS: u16 = u16::MAX;

/// What all lanes of a run have in common.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) fleet: Arc<Fleet>,
    pub(super) quantities: Quantities,
    pub(super) boot: BootId,
    pub(super) protocol: Protocol,
    pub(super) qos: Qos,
    /// Time of reading 0 of each sensor, ms since 1970 UTC.
    pub(super) start_ms: i64,
    /// Readings per second of the whole fleet; none = as fast as possible.
    pub(super) rate: Option<f64>,
    /// Readings of the whole fleet.
    pub(super) count: u64,
    /// When reading 0 of sensor 0 is due.
    pub(super) begin: Instant,
}

impl Run {
    /// When the `k`th reading of the fleet is due.
    fn due(&self, k: u64) -> Instant {
        let offset = self.rate.map_or(Ok(Duration::ZERO), |rate| {
            Duration::try_from_secs_f64(k as f64 / rate)
        });
        // Later than a hundred years is never.
        let never = Duration::from_hours(876_000);
        self.begin + offset.unwrap_or(never).min(never)
    }
}

/// What a lane has done so far, in readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Sent, each counted once.
    pub(super) sent: u64,
    /// Sent again after a lost connection.
    pub(super) resent: u64,
    /// Acknowledged and taken.
    pub(super) acked: u64,
    /// Acknowledged with a reason that says that they were not taken (MQTT 5).
    pub(super) refused: u64,
    /// Not sent because the sensor drops out.
    pub(super) dropped_out: u64,
    /// Readings per sensor that the lane has come to, sent or dropped out.
    pub(super) per_sensor: u64,
}

/// A sensor of the lane.
#[derive(Debug)]
struct Bound {
    index: usize,
    topic: Box<[u8]>,
    /// Everything in it but number, time and values stays.
    reading: Reading,
}

/// A publish without its PUBACK.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    /// Position in `Lane::sensors`.
    slot: u32,
    /// Set when it was acknowledged before its elders.
    acked: bool,
    n: u64,
    /// When it was first written.
    sent: Instant,
}

/// Why there is nothing (more) to write now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The buffer is full, or the window is: come back after a write or a PUBACK.
    Wait,
    /// The next reading is due then.
    At(Instant),
    /// There is no further reading.
    Done,
}

/// One connection's share of the fleet.
#[derive(Debug)]
pub(super) struct Lane {
    run: Arc<Run>,
    sensors: Vec<Bound>,
    /// The next reading: position in `sensors`, and number.
    slot: usize,
    n: u64,
    /// Publishes without PUBACK, oldest first; their packet ids are consecutive.
    in_flight: VecDeque<InFlight>,
    /// Packet id of the oldest.
    front_id: u16,
    /// Position in `in_flight` of the first that this connection has not carried yet.
    unsent: usize,
    /// Of those before `unsent`, the ones without PUBACK.
    outstanding: usize,
    /// Bound on `outstanding`.
    window: usize,
    /// Encoded packets, to be written.
    pub(super) out: Vec<u8>,
    payload: Vec<u8>,
    pub(super) tally: Tally,
    /// From the first write of a reading to its PUBACK, µs.
    pub(super) latency: Histogram<u64>,
    /// `sensor boot seq t` of what was acknowledged, a line each, when wanted.
    pub(super) acked_lines: Option<Vec<u8>>,
}

impl Lane {
    /// Lane `lane` of `lanes`: the sensors whose index leaves that remainder.
    pub(super) fn new(
        run: Arc<Run>,
        lane: usize,
        lanes: usize,
        latency: Histogram<u64>,
        log_acked: bool,
    ) -> Self {
        // A node announces whole seconds; faster ones announce nothing.
        let interval = run.fleet.config().interval;
        let next_s = u32::try_from(interval.as_secs()).ok().filter(|&s| s > 0);
        let sensors = (lane..run.fleet.len())
            .step_by(lanes)
            .filter_map(|index| {
                // `C` and digits is always a sensor id.
                let sensor = SensorId::try_from(run.fleet.id(index).as_str()).ok()?;
                let topic = topic::reading(&sensor).into_bytes().into_boxed_slice();
                let values = Values::from_buf([(TEMPERATURE, 0.0), (HUMIDITY, 0.0)]);
                let boot = Some(run.boot);
                let reading = Reading {
                    sensor,
                    boot,
                    seq: None,
                    time_ms: None,
                    next_s,
                    start: None,
                    values,
                };
                Some(Bound {
                    index,
                    topic,
                    reading,
                })
            })
            .collect();
        Self {
            run,
            sensors,
            slot: 0,
            n: 0,
            in_flight: VecDeque::new(),
            front_id: 1,
            unsent: 0,
            outstanding: 0,
            window: 1,
            out: Vec::new(),
            payload: Vec::new(),
            tally: Tally::default(),
            latency,
            acked_lines: log_acked.then(Vec::new),
        }
    }

    /// A new connection with this window: what is unacknowledged will be sent again, in order.
    pub(super) fn connected(&mut self, window: u16) {
        self.window = usize::from(window.max(1));
        self.unsent = 0;
        self.outstanding = 0;
        self.out.clear();
    }

    /// Whether every reading that was sent is settled.
    pub(super) fn settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Number of readings sent and not settled.
    pub(super) fn unacked(&self) -> u64 {
        self.in_flight.iter().filter(|flight| !flight.acked).count() as u64
    }

    /// Whether the lane has come to its last reading.
    pub(super) fn exhausted(&self) -> bool {
        self.next_k().is_none()
    }

    /// Appends to `out` what may be sent now: first what the last connection owes, then, when
    /// `open`, what is due.
    pub(super) fn fill(&mut self, now: Instant, open: bool) -> Next {
        while self.out.len() < CHUNK {
            if self.run.qos == Qos::AtLeastOnce && self.outstanding >= self.window {
                return Next::Wait;
            }
            if let Some(&flight) = self.in_flight.get(self.unsent) {
                if !flight.acked {
                    let packet_id = Some(self.id_at(self.unsent));
                    self.put(flight.slot as usize, flight.n, packet_id, true);
                    self.outstanding += 1;
                    self.tally.resent += 1;
                }
                self.unsent += 1;
                continue;
            }
            let Some(k) = self.next_k().filter(|_| open) else {
                return Next::Done;
            };
            let due = self.run.due(k);
            if due > now {
                return Next::At(due);
            }
            if self.in_flight.len() >= usize::from(PACKET_IDS) {
                return Next::Wait;
            }
            self.send_next(now);
        }
        Next::Wait
    }

    /// The server has settled a publish. Ids that are not in flight are ignored: after a lost
    /// connection a server may acknowledge twice.
    pub(super) fn on_ack(&mut self, packet_id: u16, reason: u8, now: Instant) {
        if packet_id == 0 {
            return;
        }
        let behind = (u32::from(packet_id) + u32::from(PACKET_IDS) - u32::from(self.front_id))
            % u32::from(PACKET_IDS);
        let position = behind as usize;
        if position >= self.unsent {
            return;
        }
        let Some(flight) = self
            .in_flight
            .get_mut(position)
            .filter(|flight| !flight.acked)
        else {
            return;
        };
        flight.acked = true;
        let flight = *flight;
        self.outstanding -= 1;
        if reason < 0x80 {
            self.tally.acked += 1;
            let waited = now.saturating_duration_since(flight.sent).as_micros();
            self.latency
                .saturating_record(u64::try_from(waited).unwrap_or(u64::MAX));
            self.log(flight);
        } else {
            self.tally.refused += 1;
        }
        while self.in_flight.front().is_some_and(|flight| flight.acked) {
            self.in_flight.pop_front();
            // Acknowledged on the last connection, it may stand where this one has yet to begin.
            self.unsent = self.unsent.saturating_sub(1);
            self.front_id = self.front_id.checked_add(1).unwrap_or(1);
        }
    }

    fn log(&mut self, flight: InFlight) {
        if let Some(lines) = &mut self.acked_lines {
            let time = self.run.fleet.time_of(self.run.start_ms, flight.n);
            let id = &self.sensors[flight.slot as usize].reading.sensor;
            // Writing to memory does not fail.
            let _ = writeln!(lines, "{id} {} {} {time}", self.run.boot, flight.n);
        }
    }

    /// The place of the lane's next reading in the order of the fleet: all sensors' reading 0, then
    /// all sensors' reading 1, ….
    fn next_k(&self) -> Option<u64> {
        let sensor = self.sensors.get(self.slot)?.index as u64;
        let k = self
            .n
            .checked_mul(self.run.fleet.len() as u64)?
            .checked_add(sensor)?;
        (k < self.run.count).then_some(k)
    }

    fn send_next(&mut self, now: Instant) {
        let (slot, n) = (self.slot, self.n);
        self.tally.per_sensor = n + 1;
        self.slot += 1;
        if self.slot == self.sensors.len() {
            self.slot = 0;
            self.n += 1;
        }
        let acknowledged = self.run.qos == Qos::AtLeastOnce;
        let packet_id = acknowledged.then(|| self.id_at(self.in_flight.len()));
        if !self.put(slot, n, packet_id, false) {
            self.tally.dropped_out += 1;
            return;
        }
        self.tally.sent += 1;
        if acknowledged {
            // There are fewer than 2^32 sensors: their ids alone would not fit memory.
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            self.in_flight.push_back(InFlight {
                slot,
                acked: false,
                n,
                sent: now,
            });
            self.unsent = self.in_flight.len();
            self.outstanding += 1;
        }
    }

    /// The packet id of a position in `in_flight`.
    fn id_at(&self, position: usize) -> u16 {
        let zero_based = (usize::from(self.front_id) - 1 + position) % usize::from(PACKET_IDS);
        u16::try_from(zero_based + 1).unwrap_or(PACKET_IDS)
    }

    /// Encodes a reading; false when the sensor drops out.
    fn put(&mut self, slot: usize, n: u64, packet_id: Option<u16>, dup: bool) -> bool {
        let run = &*self.run;
        let time = run.fleet.time_of(run.start_ms, n);
        let bound = &mut self.sensors[slot];
        let Some(sample) = run.fleet.sample(bound.index, n, time) else {
            return false;
        };
        bound.reading.seq = Some(n);
        bound.reading.time_ms = Some(time);
        for (quantity, value) in &mut bound.reading.values {
            *value = if *quantity == HUMIDITY {
                sample.humidity
            } else {
                sample.temperature
            };
        }
        self.payload.clear();
        vigie_wire::encode(&bound.reading, &run.quantities, &mut self.payload);
        let header = PublishHeader {
            protocol: run.protocol,
            packet_id,
            dup,
        };
        put_publish(&mut self.out, header, &bound.topic, &self.payload);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{FaultKind, FaultPlan, FleetConfig};

    fn lane(sensors: usize, qos: Qos, count: u64, rate: Option<f64>) -> Lane {
        let fleet = Arc::new(Fleet::new(FleetConfig {
            sensors,
            seed: 1,
            interval: Duration::from_secs(1),
            faults: FaultPlan {
                kinds: vec![FaultKind::Dropout],
                every: 0,
                warmup: 0,
            },
        }));
        let run = Run {
            fleet,
            quantities: Quantities::builtin(),
            boot: BootId::try_from("9f3a").unwrap(),
            protocol: Protocol::V5,
            qos,
            start_ms: 1_000,
            rate,
            count,
            begin: Instant::now(),
        };
        let mut lane = Lane::new(Arc::new(run), 0, 1, Histogram::new(3).unwrap(), true);
        lane.connected(1_000);
        lane
    }

    /// (dup, packet id, topic and payload) of each publish in `out`.
    fn publishes(out: &[u8]) -> Vec<(bool, u16, String)> {
        let (mut rest, mut found) = (out, Vec::new());
        while !rest.is_empty() {
            let (dup, qos) = (rest[0] & 8 != 0, (rest[0] >> 1) & 3);
            let two = rest[1] & 0x80 != 0;
            let len = usize::from(rest[1] & 0x7F) + usize::from(two) * 128 * usize::from(rest[2]);
            let body = &rest[2 + usize::from(two)..][..len];
            rest = &rest[2 + usize::from(two) + len..];
            let topic = 2 + usize::from(body[1]);
            let id = if qos == 0 {
                0
            } else {
                u16::from_be_bytes([body[topic], body[topic + 1]])
            };
            let payload = topic + 1 + if qos == 0 { 0 } else { 2 };
            let text = [&body[2..topic], b" ", &body[payload..]].concat();
            found.push((dup, id, String::from_utf8(text).unwrap()));
        }
        found
    }

    #[tokio::test]
    async fn a_publish_is_on_the_wire_as_designed() {
        let mut lane = lane(2, Qos::AtLeastOnce, 3, None);
        assert_eq!(lane.fill(Instant::now(), true), Next::Done);
        let sent = publishes(&lane.out);
        assert_eq!(sent.len(), 3);
        let ids: Vec<_> = sent.iter().map(|s| (s.0, s.1)).collect();
        assert_eq!(ids, [(false, 1), (false, 2), (false, 3)]);
        let start = "sensors/C001/reading {\"v\":1,\"id\":\"C001\",\"boot\":\"9f3a\",\"seq\":1,\"t\":2000,\
                     \"temperature\":";
        assert!(sent[2].2.starts_with(start), "{}", sent[2].2);
        assert!(sent[2].2.ends_with(",\"next_s\":1}"), "{}", sent[2].2);
        assert!(lane.exhausted() && !lane.settled());
        for id in 1..=3 {
            lane.on_ack(id, 0, Instant::now());
        }
        assert!(lane.settled());
        let lines = String::from_utf8(lane.acked_lines.take().unwrap()).unwrap();
        assert_eq!(
            lines,
            "C001 9f3a 0 1000\nC002 9f3a 0 1000\nC001 9f3a 1 2000\n"
        );
    }

    #[tokio::test]
    async fn the_window_holds_and_acks_in_any_order_open_it() {
        let mut lane = lane(10, Qos::AtLeastOnce, u64::MAX, None);
        lane.connected(4);
        assert_eq!(lane.fill(Instant::now(), true), Next::Wait);
        assert_eq!(lane.tally.sent, 4);
        lane.on_ack(3, 0, Instant::now());
        lane.on_ack(3, 0, Instant::now());
        lane.on_ack(9, 0, Instant::now());
        lane.on_ack(0, 0, Instant::now());
        assert_eq!((lane.tally.acked, lane.unacked()), (1, 3));
        lane.fill(Instant::now(), true);
        assert_eq!(lane.tally.sent, 5);
        lane.on_ack(1, 0x97, Instant::now());
        assert_eq!((lane.tally.acked, lane.tally.refused), (1, 1));
        lane.fill(Instant::now(), true);
        assert_eq!(lane.tally.sent, 6);
    }

    #[tokio::test]
    async fn a_new_connection_owes_the_unacknowledged_in_order_with_dup() {
        let mut lane = lane(3, Qos::AtLeastOnce, 6, None);
        lane.fill(Instant::now(), true);
        let first = publishes(&lane.out);
        lane.on_ack(1, 0, Instant::now());
        lane.on_ack(4, 0, Instant::now());
        lane.connected(2);
        assert_eq!(lane.fill(Instant::now(), true), Next::Wait);
        // An id that the new connection has not carried yet cannot be acknowledged on it.
        lane.on_ack(6, 0, Instant::now());
        for id in [2, 3] {
            lane.on_ack(id, 0, Instant::now());
        }
        assert_eq!(lane.fill(Instant::now(), false), Next::Wait);
        let again = publishes(&lane.out);
        let expected: Vec<_> = [1, 2, 4, 5]
            .map(|i| (true, first[i].1, first[i].2.clone()))
            .to_vec();
        assert_eq!(again, expected);
        for id in [5, 6] {
            lane.on_ack(id, 0, Instant::now());
        }
        assert!(lane.settled());
        assert_eq!(
            (lane.tally.sent, lane.tally.acked, lane.tally.resent),
            (6, 6, 4)
        );
    }

    #[tokio::test]
    async fn packet_ids_wrap_without_zero() {
        let mut lane = lane(7, Qos::AtLeastOnce, 200_000, None);
        let (mut next, mut acked) = (1_u16, 0);
        while !(lane.exhausted() && lane.settled()) {
            lane.fill(Instant::now(), true);
            for (_, id, _) in publishes(&lane.out) {
                assert_eq!(id, next);
                next = next.checked_add(1).unwrap_or(1);
                lane.on_ack(id, 0, Instant::now());
                acked += 1;
            }
            lane.out.clear();
        }
        assert_eq!((acked, lane.tally.acked), (200_000, 200_000));
    }

    #[tokio::test(start_paused = true)]
    async fn readings_are_sent_when_they_are_due() {
        let mut lane = lane(10, Qos::AtMostOnce, 50, Some(10.0));
        let begin = Instant::now();
        assert_eq!(
            lane.fill(begin, true),
            Next::At(begin + Duration::from_millis(100))
        );
        assert_eq!(lane.tally.sent, 1);
        lane.fill(begin + Duration::from_secs(2), true);
        assert_eq!(lane.tally.sent, 21);
        assert_eq!(lane.fill(begin + Duration::from_mins(1), true), Next::Done);
        assert_eq!((lane.tally.sent, lane.tally.per_sensor), (50, 5));
    }
}
