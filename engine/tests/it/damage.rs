//! Files of a store that are damaged: bits flip, ends are missing, blocks are zeros. The engine opens
//! it with the right values, or says what is damaged and what to do; it never gives a wrong value and
//! never panics.
//!
//! `VIGIE_DAMAGE` is how many ways are tried (default 60).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::Value;
use vigie_actors::store::row::reading_floor;
use vigie_wire::SensorId;

use super::harness::{
    Engine, Finished, PATIENCE, Process, RUN, engine, now_ms, number_after, setting, simulate,
    simulate_args, wait_until,
};

const EXPORT: [&str; 5] = ["export", "--data-dir", "data", "--format", "ndjson"];
const DOCTOR: [&str; 3] = ["doctor", "--data-dir", "data"];

/// A store as a `kill -9` leaves it, with tables, manifests and a journal; and what it holds.
fn store(dir: &Path) -> Vec<String> {
    let config = dir.join("vigie.toml");
    // Small, so that tables are written.
    fs::write(&config, "[store]\nwrite_buffer_mib = 2\n").unwrap();
    let config = config.to_str().unwrap();
    // The last ones in many batches, which are in the journal only.
    for (nth, rate) in ["max --count 60000", "6000 --count 3000"]
        .iter()
        .enumerate()
    {
        let mut engine = Engine::run_with(dir, &["--mqtt", "127.0.0.1:0", "--config", config]);
        let begun_ms = now_ms() - 5 * 86_400_000 + i64::try_from(nth).unwrap() * 40_000_000;
        let fleet =
            format!("--sensors 20 --seed {nth} --interval 10s --rate {rate} --start {begun_ms}");
        simulate(dir, &engine.door(), &fleet);
        if nth == 0 {
            engine.process.stop();
        } else {
            let mark = dir.join("data/store/stored");
            wait_until("the mark", PATIENCE, || {
                let bytes = fs::read(&mark).unwrap_or_default();
                let marked = bytes
                    .first_chunk::<8>()
                    .map(|bytes| u64::from_le_bytes(*bytes));
                (marked == Some(63_000))
                    .then_some(())
                    .ok_or_else(|| format!("{marked:?}"))
            });
            engine.process.kill();
        }
    }
    let exported = engine(dir, &EXPORT).expect(0, &[]).stdout;
    let rows: Vec<String> = exported.lines().map(str::to_owned).collect();
    assert_eq!(rows.len(), 63_000);
    rows
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if fs::metadata(&path).unwrap().len() > 0 {
            all.push(path);
        }
    }
    all.sort();
}

/// Bytes that are used: journals have zeros at their end.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |at| at + 1)
}

fn damage(path: &Path, random: &mut impl rand::Rng) -> String {
    let mut bytes = fs::read(path).unwrap();
    let used = used(&bytes);
    let at = random.gen_range(0..used);
    let what = match random.gen_range(0..4) {
        0 => {
            bytes.truncate(at);
            "cut at"
        }
        1 => {
            let end = (at + 512).min(used);
            bytes[at..end].fill(0);
            "512 zeros at"
        }
        _ => {
            bytes[at] ^= 1 << random.gen_range(0..8);
            "bit flipped at"
        }
    };
    fs::write(path, bytes).unwrap();
    format!("{what} {at} of {used}")
}

/// What may be: it ended by itself, without a panic, and with words if it failed.
fn assert_told(finished: &Finished, case: &str) {
    assert!(
        matches!(finished.code, 0..=2) && !finished.stderr.contains("panicked"),
        "{case}: {finished:#?}"
    );
    if finished.code != 0 {
        let told = [
            "damaged",
            "the store holds",
            "the store failed",
            "cannot open the store",
        ];
        assert!(
            told.iter().any(|words| finished.stderr.contains(words)),
            "{case}: {finished:#?}"
        );
    }
}

/// An engine that runs on it for a moment, takes readings, and is asked to end.
fn runs(dir: &Path, case: &str) {
    let mut engine = match Engine::try_start(dir, &RUN) {
        Ok(engine) => engine,
        Err(ended) => return assert_told(&ended, case),
    };
    let load = format!(
        "--sensors 20 --boot new --interval 10s --rate max --count 400 --start {}",
        now_ms() - 3_600_000
    );
    let mut load = Process::start(dir, &simulate_args(&engine.door(), &load));
    // It may take nothing, or end itself; it must not take what it cannot store.
    let begun = Instant::now();
    while load.ended().is_none()
        && engine.process.ended().is_none()
        && begun.elapsed() < Duration::from_secs(5)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    if load.ended().is_none() {
        load.kill();
    }
    if engine.process.ended().is_none() {
        engine.process.signal("INT");
    }
    let code = engine.process.wait(PATIENCE);
    let said = engine.process.stderr().join("\n");
    assert!(
        matches!(code, 0 | 1) && !said.contains("panicked"),
        "{case}: {code}, {said}"
    );
}

#[test]
fn a_damaged_store_opens_or_says_so_and_never_gives_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    let whole = store(dir.path());
    let known: BTreeSet<&str> = whole.iter().map(String::as_str).collect();
    let store = dir.path().join("data/store");
    let mut all = Vec::new();
    files(&store, &mut all);
    // One of each kind as often as the others.
    let kind = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let parent = path
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        match name.as_str() {
            _ if Path::new(&name).extension().is_some_and(|end| end == "jnl") => "journal",
            _ if parent == "tables" => "table",
            "current" => "current",
            _ if name.starts_with('v') && name != "version" => "manifest",
            _ => "other",
        }
    };
    let kinds = [
        "journal", "journal", "table", "table", "current", "manifest", "other",
    ];
    let mut random = StdRng::seed_from_u64(5);
    let (mut unharmed, mut refused, mut shorter) = (0, 0, 0);
    let cases = setting("VIGIE_DAMAGE", 60);
    for nth in 0..cases {
        let hurt = tempfile::tempdir().unwrap();
        copy(&store, &hurt.path().join("data/store"));
        let wanted = kinds[nth as usize % kinds.len()];
        let candidates: Vec<&PathBuf> = all.iter().filter(|path| kind(path) == wanted).collect();
        let victim = candidates.choose(&mut random).unwrap();
        let place = victim.strip_prefix(dir.path()).unwrap();
        let how = damage(&hurt.path().join(place), &mut random);
        let case = format!("case {nth}: {} {how}", place.display());

        let exported = engine(hurt.path(), &EXPORT);
        assert_told(&exported, &case);
        let wrong = exported.stdout.lines().find(|line| {
            // A line that is cut off because the export failed is none.
            !known.contains(line) && line.ends_with('}')
        });
        assert_eq!(wrong, None, "{case}: a value that was never stored");
        let doctor = engine(hurt.path(), &DOCTOR);
        assert_told(&doctor, &case);
        // One in five runs: what merges tables reads them as well.
        if nth % 5 == 0 {
            runs(hurt.path(), &case);
        }
        let rows = exported.stdout.lines().count();
        match exported.code {
            0 if rows == whole.len() => unharmed += 1,
            0 => {
                // The end of the journal: told when it was cut off.
                let told = [
                    "the last batch of the journal",
                    "had been stored and are gone",
                ];
                let said = told.iter().any(|words| exported.stderr.contains(words));
                assert!(said, "{case}: {rows} rows, {:?}", exported.stderr);
                shorter += 1;
            }
            _ => refused += 1,
        }
    }
    eprintln!(
        "damage: {cases} ways; {unharmed} opened with everything, {shorter} with the last batch left \
         out, {refused} refused with words"
    );
}

#[test]
fn a_journal_that_is_damaged_in_the_middle_is_repaired_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let whole = store(dir.path());
    let mut all = Vec::new();
    files(&dir.path().join("data/store"), &mut all);
    all.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let journal = all.last().unwrap();
    let mut bytes = fs::read(journal).unwrap();
    // In a reading, for there are batches that hold none.
    let rows: Vec<Value> = whole
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |row: &&Value| row["sensor"] == "C001";
    let row = rows.iter().filter(of).nth_back(75).unwrap();
    let key = reading_floor(
        &SensorId::try_from("C001").unwrap(),
        row["t"].as_i64().unwrap(),
    );
    let at = bytes
        .windows(key.len())
        .rposition(|part| part == key)
        .unwrap();
    assert!(used(&bytes) - at > 10_000, "not the last batch");
    bytes[at] ^= 16;
    fs::write(journal, &bytes).unwrap();

    engine(dir.path(), &RUN).expect(
        1,
        &[".jnl is damaged", "doctor --repair", "nothing was changed"],
    );
    assert_eq!(fs::read(journal).unwrap(), bytes, "nothing was changed");
    let repaired = engine(dir.path(), &[&DOCTOR[..], &["--repair"]].concat()).expect(0, &[]);
    let lost = number_after(&repaired.stdout, "isolation forests kept\n");
    assert!(lost > 0 && lost < 3_000, "{}", repaired.stdout);
    assert!(
        repaired.stdout.contains("readings were lost"),
        "{}",
        repaired.stdout
    );

    engine(dir.path(), &DOCTOR).expect(0, &[]);
    let rest = engine(dir.path(), &EXPORT).expect(0, &[]).stdout;
    let known: BTreeSet<&str> = whole.iter().map(String::as_str).collect();
    assert_eq!(rest.lines().count() as u64, whole.len() as u64 - lost);
    assert!(rest.lines().all(|line| known.contains(line)));
    let mut engine = Engine::start(dir.path(), &RUN);
    engine.process.stop();
}
