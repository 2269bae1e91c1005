//! A disk that is full: the engine says so, acknowledges nothing, stays up, and goes on when there
//! is room.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::{
    Engine, PATIENCE, Process, Published, acked, assert_kept, doctor, now_ms, simulate_args,
    stored, wait_until,
};
use super::mosquitto::free;

/// A small file system of its own. `None`: the user may not make one.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: &Path, mib: u32) -> Option<Self> {
        let at = dir.join("disk");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&at)
            .output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self(at));
        }
        eprintln!("skipped: needs the right to mount a file system");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_acknowledgements_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 200) else {
        return;
    };
    let file = dir.path().join("acked");
    let mut engine = Engine::run(&disk.0);
    let load = format!(
        "--sensors 20 --seed 3 --interval 1s --rate 2000 --acked acked --start {}",
        now_ms() - 6 * 86_400_000
    );
    let mut publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
    engine.wait_stored(2000);

    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 180 << 20]).unwrap();
    wait_until("the end of acknowledgements", PATIENCE, || {
        match engine.count("vigie_store_disk_full") {
            1 => Ok(()),
            other => Err(format!("{other}")),
        }
    });
    let stopped = engine.ledger("stored");
    // Longer than the forty attempts after which a stage is given up, had they been failures.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(engine.ledger("stored"), stored_still(&engine, stopped));
    let said = engine.process.stderr().join("\n");
    assert!(said.contains("store.min_free_mib"), "{said}");

    fs::remove_file(&ballast).unwrap();
    let begun = Instant::now();
    engine.wait_stored(stopped + 1);
    let resumed = begun.elapsed();
    assert!(
        resumed < Duration::from_secs(5),
        "resumed after {resumed:?}"
    );

    std::thread::sleep(Duration::from_secs(1));
    Published::end(&mut publisher);
    let kept = stored(&engine);
    assert_kept(&acked(&file), &kept);
    engine.process.stop();
    assert_eq!(doctor(&disk.0), kept.len() as u64);
    eprintln!("disk full: resumed after {resumed:?}");
}

/// Somebody takes the last byte between two looks at the disk: a write fails. What the disk has is not
/// known then until the store is opened again, so either the engine noticed in time and waits, or it
/// ends and says why. Acknowledged is only what is there afterwards.
#[test]
fn a_disk_that_fills_at_once_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 120) else {
        return;
    };
    let file = dir.path().join("acked");
    let addr = free().to_string();
    let (mut ended, mut waited) = (0, 0);
    let mut engine = Engine::run_with(&disk.0, &["--mqtt", &addr]);
    let load = format!(
        "--sensors 20 --seed 3 --interval 1s --rate 2000 --acked acked --start {}",
        now_ms() - 6 * 86_400_000
    );
    let mut publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
    let ballast = disk.0.join("ballast");
    let goes_on = |engine: &mut Engine| {
        let before = acknowledged(&file);
        wait_until("more acknowledgements, or the end", PATIENCE, || {
            let now = acknowledged(&file);
            match engine.process.ended() {
                None if now < before + 500 => Err(now.to_string()),
                ended => Ok(ended),
            }
        })
    };
    for round in 1..=8 {
        assert_eq!(goes_on(&mut engine), None);
        // Not at the same moment of the second each time.
        std::thread::sleep(Duration::from_millis(130 * round));
        fill(&ballast);
        std::thread::sleep(Duration::from_secs(2));
        fs::remove_file(&ballast).unwrap();
        match goes_on(&mut engine) {
            None => waited += 1,
            Some(code) => {
                ended += 1;
                let said = engine.process.stderr().join("\n");
                assert_eq!(code, 1, "{said}");
                assert!(said.contains("make room"), "{said}");
                engine = Engine::run_with(&disk.0, &["--mqtt", &addr]);
            }
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    Published::end(&mut publisher);
    let kept = stored(&engine);
    assert_kept(&acked(&file), &kept);
    engine.process.stop();
    assert_eq!(doctor(&disk.0), kept.len() as u64);
    eprintln!("disk filled at once: ended {ended} times, waited {waited} times");
}

fn acknowledged(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// Takes all there is.
fn fill(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    let block = vec![0; 1 << 16];
    while file.write_all(&block).is_ok() {}
}

/// Whatever was under way when the disk was looked at is in.
fn stored_still(engine: &Engine, stopped: u64) -> u64 {
    let now = engine.ledger("stored");
    assert!(
        now <= stopped + 8192,
        "{now} stored, {stopped} when it stopped"
    );
    now
}
