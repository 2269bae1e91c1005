//! A disk that is full: the engine says so, acknowledges nothing, stays up, and goes on when there
//! is room.

use std::fs;
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

impl Disk {
    /// False if more than that is used.
    fn resize(&self, kib: u64) -> bool {
        let size = format!("remount,size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-o", &size]).arg(&self.0);
        mount.output().unwrap().status.success()
    }

    /// To what is used: from one moment to the next nothing is left.
    fn shrink(&self) {
        wait_until("a full disk", PATIENCE, || {
            let mut df = Command::new("df");
            let said = df.args(["-k", "--output=used"]).arg(&self.0).output();
            let said = String::from_utf8(said.unwrap().stdout).unwrap();
            let used: u64 = said.lines().nth(1).unwrap().trim().parse().unwrap();
            self.resize(used + 16).then_some(()).ok_or(said)
        });
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
    let engine = Engine::run(&disk.0);
    let load = format!(
        "--sensors 20 --seed 3 --interval 1s --rate 2000 --acked acked --start {}",
        now_ms() - 6 * 86_400_000
    );
    let publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
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

    assert_all_kept(engine, publisher, &disk, &file);
    eprintln!("disk full: resumed after {resumed:?}");
}

/// Somebody takes the last byte at once: the engine looks before each write, so it stays.
#[test]
fn a_disk_that_fills_at_once_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 400) else {
        return;
    };
    let file = dir.path().join("acked");
    let (mqtt, http) = (free().to_string(), free().to_string());
    let args = [
        "run",
        "--data-dir",
        "data",
        "--mqtt",
        &mqtt,
        "--http",
        &http,
    ];
    let mut engine = Engine::start(&disk.0, &args);
    let load = format!(
        "--sensors 20 --seed 3 --interval 1s --rate 10000 --connections 4 --acked acked --start {}",
        now_ms() - 6 * 86_400_000
    );
    let publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
    let mut slowest = Duration::ZERO;
    for round in 1..=8 {
        let before = acknowledged(&file);
        wait_until("more acknowledgements", PATIENCE, || {
            let now = acknowledged(&file);
            (now >= before + 500)
                .then_some(())
                .ok_or_else(|| now.to_string())
        });
        // Not at the same moment of a commit each time.
        std::thread::sleep(Duration::from_millis(133 * round));
        disk.shrink();
        std::thread::sleep(Duration::from_secs(3));
        let stopped = acknowledged(&file);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(acknowledged(&file), stopped, "nothing is acknowledged");
        disk.resize(400 << 10);
        let begun = Instant::now();
        wait_until("acknowledgements again", PATIENCE, || {
            (acknowledged(&file) > stopped)
                .then_some(())
                .ok_or_else(|| stopped.to_string())
        });
        slowest = slowest.max(begun.elapsed());
        assert_eq!(engine.process.ended(), None, "the process stays");
    }
    assert!(
        slowest < Duration::from_secs(5),
        "resumed after {slowest:?}"
    );
    assert_all_kept(engine, publisher, &disk, &file);
    eprintln!("disk filled 8 times: resumed within {slowest:?}");
}

fn acknowledged(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// A while later everything that was acknowledged is there, and the doctor counts the same.
fn assert_all_kept(mut engine: Engine, mut publisher: Process, disk: &Disk, file: &Path) {
    std::thread::sleep(Duration::from_secs(1));
    Published::end(&mut publisher);
    let kept = stored(&engine);
    assert_kept(&acked(file), &kept);
    engine.process.stop();
    assert_eq!(doctor(&disk.0), kept.len() as u64);
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
