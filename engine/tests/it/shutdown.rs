//! SIGTERM under load: the engine ends in time, and what it acknowledged is there afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use super::harness::{
    Engine, PATIENCE, Process, Published, acked, assert_kept, doctor, mails, now_ms, simulate,
    simulate_args, stored, wait_until,
};
use super::mosquitto::Way;

#[test]
fn sigterm_under_load_ends_in_time_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    ends_in_time_and_loses_nothing(dir.path(), &Way::Listener);
}

#[test]
fn as_a_subscriber_too_it_ends_in_time_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(way) = Way::mosquitto(dir.path()) {
        ends_in_time_and_loses_nothing(dir.path(), &way);
    }
}

fn ends_in_time_and_loses_nothing(dir: &Path, way: &Way) {
    let file = dir.join("acked");
    let mut engine = way.run(dir);
    let args = simulate_args(
        &way.door(&engine),
        "--sensors 50 --rate 5000 --connections 4 --interval 1s --acked acked",
    );
    let mut publisher = Process::start(dir, &args);
    let under_load = wait_until("10,000 acknowledged readings", PATIENCE, || {
        let count = engine.ledger("stored");
        if count >= 10_000 {
            Ok(count)
        } else {
            Err(format!("{count} stored"))
        }
    });

    let begun = Instant::now();
    engine.process.signal("TERM");
    let code = engine.process.wait(Duration::from_secs(10));
    let took = begun.elapsed();
    assert_eq!(code, 0, "exit code after SIGTERM under load");
    assert!(took < Duration::from_secs(5), "the shutdown took {took:?}");

    publisher.signal("INT");
    assert_eq!(publisher.wait(PATIENCE), 0, "exit code of the publisher");
    let published = Published::read(&publisher.stdout().join("\n"));
    let acked = acked(&file);
    assert_eq!(acked.len() as u64, published.acknowledged, "{published:?}");

    let held = doctor(dir);
    let mut engine = way.run(dir);
    if let Way::Mosquitto(_) = way {
        // What the engine had not stored yet waits at the broker.
        engine.wait_stored(published.sent);
    } else {
        assert_eq!(engine.ledger("stored"), held, "the doctor's count");
    }
    let stored = stored(&engine);
    assert_kept(&acked, &stored);
    engine.process.stop();
    eprintln!(
        "shutdown: ended in {took:?} after {under_load} readings; {} acknowledged, {held} stored",
        acked.len()
    );
}

#[test]
fn a_backlog_of_notices_does_not_hold_up_the_end_and_is_delivered_later() {
    const SENSORS: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::run(dir.path());
    // Nearly everybody sends what cannot be true: about as many incidents as sensors in an instant.
    let load = format!(
        "--sensors {SENSORS} --count {} --rate max --interval 10s --faults sentinel \
         --fault-every 1 --fault-warmup 0 --start {}",
        20 * SENSORS,
        now_ms() - 3_600_000
    );
    simulate(dir.path(), &engine.door(), &load);
    let incidents = engine.incidents();
    assert!(
        incidents.len() as u64 > SENSORS / 2,
        "{} incidents",
        incidents.len()
    );
    let notices = incidents.iter().map(|one| one["notices"].as_u64().unwrap());
    let expected: u64 = notices.sum();
    let begun = Instant::now();
    engine.process.signal("TERM");
    let code = engine.process.wait(Duration::from_secs(10));
    let took = begun.elapsed();
    let in_time = mails(dir.path());
    assert_eq!(
        code, 0,
        "exit code after {took:?}, with {in_time} mails written"
    );
    assert!(took < Duration::from_secs(5), "the shutdown took {took:?}");

    let mut engine = Engine::run(dir.path());
    wait_until(
        "the mail of every incident",
        Duration::from_mins(2),
        || match mails(dir.path()) {
            count if count as u64 == expected => Ok(()),
            count => Err(format!(
                "{count} mails, {in_time} at the end of the first run"
            )),
        },
    );
    engine.process.stop();
    eprintln!(
        "shutdown: ended in {took:?} with {in_time} of {expected} mails written, the rest later"
    );
}
