//! A disk that is full: the engine says so, acknowledges nothing, stays up, and goes on when there
//! is room. One that takes no new file ends it in words.

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
        Self::with(dir, &format!("size={mib}m"))
    }

    fn with(dir: &Path, options: &str) -> Option<Self> {
        let at = dir.join("disk");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
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

    /// To what is used and so much more: from one moment to the next nothing is left.
    fn shrink(&self, more_kib: u64) {
        wait_until("a full disk", PATIENCE, || {
            let mut df = Command::new("df");
            let said = df.args(["-k", "--output=used"]).arg(&self.0).output();
            let said = String::from_utf8(said.unwrap().stdout).unwrap();
            let used: u64 = said.lines().nth(1).unwrap().trim().parse().unwrap();
            self.resize(used + more_kib).then_some(()).ok_or(said)
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
    let mut engine = Addresses::new().engine(&disk.0, &[]);
    let publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load()));
    let mut slowest = Duration::ZERO;
    for round in 1..=8 {
        wait_more_acknowledged(&file);
        // Not at the same moment of a commit each time.
        std::thread::sleep(Duration::from_millis(133 * round));
        disk.shrink(16);
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

/// Between that look and the write: the store cannot be written to any more, so the engine starts
/// again when there is room, as the same process at the same addresses. While it waits, it stops when
/// it is asked to.
#[test]
fn a_disk_that_fills_in_the_middle_of_a_write_has_the_engine_start_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), 400) else {
        return;
    };
    let file = dir.path().join("acked");
    let addresses = Addresses::new();
    // What starts again is frozen again.
    let frozen = [("VIGIE_FAILPOINT", "freeze:store.commit@20")];
    let mut engine = addresses.engine(&disk.0, &frozen);
    let publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load()));
    for round in 1..=3 {
        fill_in_the_middle(&engine, &disk, round);
        let stopped = acknowledged(&file);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(acknowledged(&file), stopped, "nothing is acknowledged");
        assert_eq!(engine.process.ended(), None, "the process stays");
        if round < 3 {
            disk.resize(400 << 10);
        }
    }
    engine.process.stop();
    disk.resize(400 << 10);
    let engine = addresses.engine(&disk.0, &[]);
    wait_more_acknowledged(&file);
    assert_all_kept(engine, publisher, &disk, &file);
}

/// There is room, but no new file can be made: the first table that is to be written ends the store. Started
/// again it would end as soon, so it says so and ends, for whoever watches over it.
#[test]
fn a_disk_without_inodes_ends_the_engine_in_words_instead_of_in_circles() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::with(dir.path(), "size=400m,nr_inodes=600") else {
        return;
    };
    let addresses = Addresses::new();
    let mut engine = addresses.engine_with(&disk.0, &[], &[]);
    let file = dir.path().join("acked");
    let load = load().replace("--rate 10000", "--rate max");
    let mut publisher = Process::start(dir.path(), &simulate_args(&engine.door(), &load));
    wait_more_acknowledged(&file);
    let ballast = disk.0.join("ballast");
    fs::create_dir(&ballast).unwrap();
    let full = (0..600).find_map(|n| fs::File::create(ballast.join(n.to_string())).err());
    assert!(full.is_some(), "600 files could be made");

    assert_eq!(engine.process.wait(PATIENCE), 1, "exit code");
    let said = engine.process.stderr().join("\n");
    assert!(said.contains("the stream cannot go on"), "{said}");
    assert!(!said.contains("starting again"), "{said}");
    publisher.kill();
    fs::remove_dir_all(&ballast).unwrap();
    let mut engine = addresses.engine(&disk.0, &[]);
    assert_kept(&acked(&file), &stored(&engine));
    engine.process.stop();
}

/// Lets a write begin that is larger than what may be left in the journal's last block.
fn fill_in_the_middle(engine: &Engine, disk: &Disk, round: usize) {
    for _ in 0..4 {
        wait_frozen(engine.process.id());
        // What is published meanwhile waits, and makes the next batches larger.
        std::thread::sleep(Duration::from_millis(300));
        engine.process.signal("CONT");
    }
    wait_frozen(engine.process.id());
    disk.shrink(0);
    engine.process.signal("CONT");
    wait_until("the end of what could not write", PATIENCE, || {
        let said = engine.process.stderr().join("\n");
        let ends = said.matches("starting again as soon as there is room");
        (ends.count() == round).then_some(()).ok_or(said)
    });
}

/// For an engine that is to have the same when it starts again.
struct Addresses {
    mqtt: String,
    http: String,
}

impl Addresses {
    fn new() -> Self {
        Self {
            mqtt: free().to_string(),
            http: free().to_string(),
        }
    }

    fn engine(&self, dir: &Path, environment: &[(&str, &str)]) -> Engine {
        self.engine_with(dir, &[], environment)
    }

    fn engine_with(&self, dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Engine {
        let args = [
            "run",
            "--data-dir",
            "data",
            "--mqtt",
            &self.mqtt,
            "--http",
            &self.http,
        ];
        let args = [&args[..], more].concat();
        let process = Process::start_in(dir, &args, environment);
        Engine::of(process).unwrap_or_else(|ended| panic!("{ended:#?}"))
    }
}

/// What the fleet publishes while the disk fills at once.
fn load() -> String {
    format!(
        "--sensors 20 --seed 3 --interval 1s --rate 10000 --connections 4 --acked acked --start {}",
        now_ms() - 6 * 86_400_000
    )
}

fn wait_frozen(process: u32) {
    wait_until("a frozen process", PATIENCE, || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let frozen = status.contains("\nState:\tT");
        frozen.then_some(()).ok_or(status)
    });
}

fn wait_more_acknowledged(file: &Path) {
    let before = acknowledged(file);
    wait_until("more acknowledgements", PATIENCE, || {
        let now = acknowledged(file);
        (now >= before + 500)
            .then_some(())
            .ok_or_else(|| now.to_string())
    });
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
