//! Reads the sensors, again and again, whatever happens to them.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use vigie_wire::SensorId;

use crate::entry::{Entry, Taken};
use crate::session::within;
use crate::shared::Shared;
use crate::{AnySensor, Board, SensorError, Start, Values};

/// How often a sensor is tried before its reading is given up.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE_MS: u64 = 250;
/// How long one try may take.
const TRY_MS: u64 = 5_000;

/// A sensor, and what is known of it.
pub(crate) struct Sampled {
    pub(crate) name: &'static str,
    pub(crate) sensor: Box<dyn AnySensor>,
    /// The position of its id.
    pub(crate) id: usize,
    /// What was said last about it: the same trouble is told once.
    pub(crate) trouble: Option<SensorError>,
}

/// The sensors of a node, by the id under which their values go out.
pub(crate) struct Sampling {
    pub(crate) ids: Vec<(SensorId, u64)>,
    pub(crate) sensors: Vec<Sampled>,
    /// Goes out with the next reading.
    pub(crate) start: Option<Start>,
}

impl Sampling {
    /// Takes one reading of each id and puts it into the queue.
    pub(crate) async fn once<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
        &mut self,
        shared: &Shared<B, F, S>,
    ) {
        for (position, (id, seq)) in self.ids.iter_mut().enumerate() {
            let now_ms = shared.board.uptime_ms();
            shared.due.sampling_at(now_ms);
            let mut values = Values::new();
            for sensor in self.sensors.iter_mut().filter(|one| one.id == position) {
                for (quantity, value) in read(sensor, shared).await {
                    let known = values.iter().any(|&(held, _)| held == quantity);
                    if value.is_finite() && !known {
                        values.push((quantity, value));
                    }
                }
            }
            if values.is_empty() {
                continue;
            }
            let taken = match shared.clock.get().utc(now_ms) {
                Some(utc_ms) => Taken::Utc(utc_ms),
                None => Taken::Uptime(now_ms),
            };
            let entry = Entry {
                sensor: *id,
                boot: shared.boot,
                seq: *seq,
                taken,
                next_s: Some(shared.config.interval_ms.div_ceil(1000)),
                values,
                start: self.start.take().map(Box::new),
            };
            *seq += 1;
            shared.counters.add_reading();
            shared.queue.lock().await.push(entry).await;
            shared.fresh.signal(());
        }
    }

    /// Takes readings for ever, at whole multiples of the interval.
    pub(crate) async fn for_ever<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
        &mut self,
        shared: &Shared<B, F, S>,
    ) {
        let interval_ms = u64::from(shared.config.interval_ms.max(1));
        let mut next_ms = shared.board.uptime_ms();
        loop {
            self.once(shared).await;
            let now_ms = shared.board.uptime_ms();
            // What was missed is not made up for.
            let behind = now_ms.saturating_sub(next_ms) / interval_ms;
            next_ms = next_ms.saturating_add(interval_ms.saturating_mul(behind + 1));
            shared.due.sampling_at(next_ms);
            shared.board.sleep_until(next_ms).await;
        }
    }
}

/// What a sensor gives, or nothing after several tries.
async fn read<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    one: &mut Sampled,
    shared: &Shared<B, F, S>,
) -> Values {
    let mut error = SensorError::Timeout;
    for nth in 1..=TRIES {
        shared.due.sampling_at(shared.board.uptime_ms());
        let tried = within(&shared.board, TRY_MS, one.sensor.read_boxed()).await;
        match tried.unwrap_or(Err(SensorError::Timeout)) {
            Ok(values) => {
                if one.trouble.take().is_some() {
                    shared.say(&format!("sensor {}: it answers again", one.name));
                }
                return values;
            }
            Err(failed) => error = failed,
        }
        shared.counters.add_failed_read();
        if nth < TRIES {
            let resume_ms = shared.board.uptime_ms().saturating_add(PAUSE_MS);
            shared.board.sleep_until(resume_ms).await;
        }
    }
    if one.trouble != Some(error) {
        one.trouble = Some(error);
        shared.say(&format!("sensor {}: {error}", one.name));
    }
    Values::new()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use embassy_futures::block_on;

    use super::*;
    use crate::testing::shared;
    use crate::{Quantity, Sensor};

    /// Gives this, one after the other; at the end it does not answer at all.
    struct Scripted(Vec<Result<(Quantity, f64), SensorError>>);

    impl Sensor for Scripted {
        async fn read(&mut self) -> Result<Values, SensorError> {
            if self.0.is_empty() {
                core::future::pending::<()>().await;
            }
            self.0.remove(0).map(|value| vec![value])
        }
    }

    fn sampling(sensors: Vec<Scripted>) -> Sampling {
        let sampled = |sensor| Sampled {
            name: "scripted",
            sensor: Box::new(sensor),
            id: 0,
            trouble: None,
        };
        Sampling {
            ids: vec![(SensorId::try_from("C001").unwrap(), 0)],
            sensors: sensors.into_iter().map(sampled).collect(),
            start: Some(Start::default()),
        }
    }

    #[test]
    fn a_sensor_is_tried_again_and_the_others_do_not_wait_for_ever() {
        let warm = Ok((Quantity::Temperature, 21.0));
        let damp = Ok((Quantity::Humidity, 50.0));
        let shared = shared();
        let mut sampling = sampling(vec![
            Scripted(vec![
                Err(SensorError::Checksum),
                Err(SensorError::Bus),
                warm,
            ]),
            Scripted(vec![damp, damp]),
        ]);
        block_on(sampling.once(&shared));
        block_on(sampling.once(&shared));
        block_on(sampling.once(&shared));

        let counts = block_on(shared.counts());
        // Two that failed and were tried again; then three times two, and three that never ended.
        assert_eq!((counts.readings, counts.failed_reads), (2, 2 + 3 + 6));
        let entry = |number| block_on(async { shared.queue.lock().await.get(number).await });
        let (first, second) = (entry(0).unwrap(), entry(1).unwrap());
        assert_eq!(
            first.values,
            [(Quantity::Temperature, 21.0), (Quantity::Humidity, 50.0)]
        );
        assert_eq!(second.values, [(Quantity::Humidity, 50.0)]);
        assert_eq!((first.seq, second.seq), (0, 1));
        assert!(first.start.is_some() && second.start.is_none());
        // Each trouble is told once.
        let told = shared.board.said.borrow().clone();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("did not answer in time"), "{told:?}");
    }
}
