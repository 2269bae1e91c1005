//! Looks at the files of a store before fjall opens it, for fjall passes over some damage in
//! silence: it cuts its journal at the first entry that it cannot read, whatever is behind, and does
//! not compare its manifests with their checksums.
//!
//! The journal of fjall 3: batches of `1 ‖ count: u32 ‖ number: u64`, `count` entries (`2 ‖ type ‖
//! compression ‖ keyspace: u64 ‖ key length: u16 ‖ length: u32 ‖ length on disk: u32 ‖ key ‖ value`,
//! or `4 ‖ keyspace: u64`), `3 ‖ xxh3 of the entries: u64 ‖ "FJL" ‖ 3`; behind the last one zeros.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::super::Error;

const MAGIC: &[u8] = b"FJL\x03";
/// Bytes of a start, of an end, and of an entry without key and value.
const START: usize = 13;
const END: usize = 13;
const ENTRY: usize = 21;
/// Bytes of the entry that says that a keyspace was cleared.
const CLEARED: usize = 9;
const CHUNK: usize = 1 << 20;
/// How many readings were stored when somebody looked last.
const MARK: &str = "stored";

/// What was left out of a journal.
#[derive(Debug)]
pub struct LeftOut {
    /// The journal.
    pub journal: PathBuf,
    /// As it was before.
    pub kept: PathBuf,
    /// Bytes that nobody can read.
    pub bytes: usize,
}

/// Looks at the store in `dir`. A damaged end of the journal, as a power cut may leave it, is cut
/// off, kept beside it, and given; for anything else nothing is changed.
///
/// # Errors
/// [`Error::DamagedFile`] says which file, and what is wrong with it.
pub(super) fn inspect(dir: &Path) -> Result<Vec<LeftOut>, Error> {
    for keyspace in entries(&dir.join("keyspaces"))? {
        manifest(&keyspace)?;
    }
    let journals = journals(dir)?;
    let mut cut = Vec::new();
    for (nth, path) in journals.iter().enumerate() {
        let bytes = read(path)?;
        let found = Scan::of(&bytes);
        if let Some(gap) = found.gaps.first() {
            let behind = found
                .batches
                .iter()
                .filter(|batch| batch.bytes.start > gap.start);
            return Err(Error::DamagedFile {
                path: path.clone(),
                what: format!(
                    "{} bytes from byte {} on cannot be read, and {} batches behind them can",
                    gap.len(),
                    gap.start,
                    behind.count()
                ),
                fix: "put the whole store back from a copy, or run `engine doctor --repair`, which \
                      leaves those bytes out and says how many readings are lost",
            });
        }
        let newest = nth + 1 == journals.len();
        match found.tail {
            Tail::Clean => {}
            Tail::Torn(_) if newest => {}
            Tail::Damaged(tail) if newest => {
                cut.push(leave_out(path, &bytes, &found.batches, tail.len())?);
            }
            Tail::Torn(tail) | Tail::Damaged(tail) => {
                return Err(Error::DamagedFile {
                    path: path.clone(),
                    what: format!("its last {} bytes cannot be read", tail.len()),
                    fix: "put the whole store back from a copy, or run `engine doctor --repair`, \
                          which leaves those bytes out and says how many readings are lost",
                });
            }
        }
    }
    Ok(cut)
}

/// Keeps a number beside the store. It is not synced: an older one does no harm. Written over the one
/// before: a file that is made anew is empty for a moment.
pub(super) fn mark(dir: &Path, stored: u64) -> Result<(), Error> {
    let path = dir.join(MARK);
    let bytes = stored.to_le_bytes();
    let checked = [bytes, xxh3_64(&bytes).to_le_bytes()].concat();
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    let written = options
        .open(&path)
        .and_then(|mut file| file.write_all(&checked));
    written.map_err(|error| unreadable(&path, error))
}

/// The number that was kept last; `None`: there is none, or it is damaged.
pub(super) fn marked(dir: &Path) -> Option<u64> {
    let bytes = fs::read(dir.join(MARK)).ok()?;
    let (stored, checksum) = bytes.split_first_chunk::<8>()?;
    (checksum == xxh3_64(stored).to_le_bytes()).then(|| u64::from_le_bytes(*stored))
}

/// Leaves what cannot be read out of the journals of the store in `dir`; each is kept as it was
/// under another name.
///
/// # Errors
/// [`Error::DamagedFile`] if it is another file that is damaged: that cannot be mended.
pub(super) fn repair(dir: &Path) -> Result<Vec<LeftOut>, Error> {
    for keyspace in entries(&dir.join("keyspaces"))? {
        manifest(&keyspace)?;
    }
    let mut left_out = Vec::new();
    for path in journals(dir)? {
        let bytes = read(&path)?;
        let found = Scan::of(&bytes);
        let (Tail::Torn(tail) | Tail::Damaged(tail)) = &found.tail else {
            if !found.gaps.is_empty() {
                let lost = found.gaps.iter().map(Range::len).sum();
                left_out.push(leave_out(&path, &bytes, &found.batches, lost)?);
            }
            continue;
        };
        let lost = found.gaps.iter().map(Range::len).sum::<usize>() + tail.len();
        left_out.push(leave_out(&path, &bytes, &found.batches, lost)?);
    }
    Ok(left_out)
}

/// Writes the journal anew with the batches that are whole.
fn leave_out(path: &Path, bytes: &[u8], batches: &[Found], lost: usize) -> Result<LeftOut, Error> {
    let failed = |error: io::Error| unreadable(path, error);
    let kept = (0..1000_u32)
        .map(|n| path.with_extension(format!("damaged-{n}")))
        .find(|kept| !kept.exists())
        .unwrap_or_else(|| path.with_extension("damaged"));
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    fs::copy(path, &kept)
        .and_then(|_| sync(&kept))
        .map_err(failed)?;
    let mut whole = Vec::with_capacity(bytes.len());
    for batch in batches {
        whole.extend_from_slice(&bytes[batch.bytes.clone()]);
    }
    let new = path.with_extension("new");
    fs::write(&new, whole)
        .and_then(|()| sync(&new))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| path.parent().map_or(Ok(()), sync))
        .map_err(failed)?;
    Ok(LeftOut {
        journal: path.to_owned(),
        kept,
        bytes: lost,
    })
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::Open {
        path: path.to_owned(),
        source: Box::new(error),
    }
}

/// What is in a directory; nothing if there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| unreadable(dir, error))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(|error| unreadable(dir, error))?.path()))
        .collect()
}

/// The journals, oldest first.
fn journals(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut journals: Vec<(u64, PathBuf)> = entries(dir)?
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some((name.strip_suffix(".jnl")?.parse().ok()?, path))
        })
        .collect();
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// A file without the zeros at its end: journals are made 64 MiB long before they are written.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = || {
        let mut file = File::open(path)?;
        let (mut bytes, mut zeros) = (Vec::new(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(bytes),
                some => {
                    let chunk = &chunk[..some];
                    let used = chunk.iter().rposition(|byte| *byte != 0);
                    if let Some(last) = used {
                        bytes.resize(bytes.len() + zeros, 0);
                        bytes.extend_from_slice(&chunk[..=last]);
                        zeros = some - last - 1;
                    } else {
                        zeros += some;
                    }
                }
            }
        }
    };
    read().map_err(|error| unreadable(path, error))
}

/// Compares the manifest of a keyspace with the checksum in `current`.
fn manifest(keyspace: &Path) -> Result<(), Error> {
    const FIX: &str = "put the whole store back from a copy";
    let current = keyspace.join("current");
    let damaged = |path: &Path, what: &str| Error::DamagedFile {
        path: path.to_owned(),
        what: what.to_owned(),
        fix: FIX,
    };
    let named = match fs::read(&current) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // One that was being made when somebody died has no tables yet; fjall clears it away.
            return if entries(&keyspace.join("tables"))?.is_empty() {
                Ok(())
            } else {
                Err(damaged(&current, "it is gone, and there are tables"))
            };
        }
        other => other.map_err(|error| unreadable(&current, error))?,
    };
    let (Some((id, rest)), 25) = (named.split_first_chunk::<8>(), named.len()) else {
        return Err(damaged(&current, "it has not the length that it should"));
    };
    let Some((checksum, _)) = rest.split_first_chunk::<16>() else {
        return Err(damaged(&current, "it has not the length that it should"));
    };
    let path = keyspace.join(format!("v{}", u64::from_le_bytes(*id)));
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(damaged(&current, "the manifest that it names is not there"))
        }
        Err(error) => Err(unreadable(&path, error)),
        Ok(bytes) if xxh3_128(&bytes) != u128::from_le_bytes(*checksum) => Err(damaged(
            &path,
            "it does not match the checksum in the file `current` beside it",
        )),
        Ok(_) => Ok(()),
    }
}

/// A whole batch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    bytes: Range<usize>,
    number: u64,
}

/// What is behind the last whole batch.
#[derive(Debug, PartialEq, Eq)]
enum Tail {
    Clean,
    /// The beginning of a batch: whoever wrote it died. It was not acknowledged.
    Torn(Range<usize>),
    /// A batch with an end that does not fit.
    Damaged(Range<usize>),
}

/// A journal, read.
#[derive(Debug)]
struct Scan {
    batches: Vec<Found>,
    /// What cannot be read and has batches behind it.
    gaps: Vec<Range<usize>>,
    tail: Tail,
}

impl Scan {
    fn of(bytes: &[u8]) -> Self {
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let bytes = &bytes[..used];
        let mut scan = Self {
            batches: Vec::new(),
            gaps: Vec::new(),
            tail: Tail::Clean,
        };
        let mut at = 0;
        while at < used {
            if let Some(batch) = batch_at(bytes, at) {
                at = batch.bytes.end;
                scan.push(batch);
                continue;
            }
            let Some(next) = next_batch(bytes, at) else {
                let tail = at..used;
                scan.tail = if has_end(&bytes[tail.clone()]) {
                    Tail::Damaged(tail)
                } else {
                    Tail::Torn(tail)
                };
                break;
            };
            scan.gaps.push(at..next);
            at = next;
        }
        scan
    }

    /// Numbers rise. One that does not fit its neighbours is damage that no checksum covers.
    fn push(&mut self, batch: Found) {
        if let [before @ .., last] = self.batches.as_slice()
            && last.number >= batch.number
        {
            let fits = before.last().is_none_or(|it| it.number < batch.number);
            if !fits {
                self.gaps.push(batch.bytes);
                return;
            }
            self.gaps.push(last.bytes.clone());
            self.batches.pop();
        }
        self.batches.push(batch);
    }
}

/// Is there the end of a batch? At the end of `tail` it may be where the damage is.
fn has_end(tail: &[u8]) -> bool {
    let last = &tail[tail.len().saturating_sub(MAGIC.len())..];
    is_nearly_magic(last) || tail.windows(MAGIC.len()).any(|window| window == MAGIC)
}

/// Is at most one byte another one?
fn is_nearly_magic(bytes: &[u8]) -> bool {
    let same = bytes.iter().rev().zip(MAGIC.iter().rev());
    same.filter(|(byte, magic)| byte == magic).count() + 1 >= MAGIC.len()
}

/// Where the next whole batch behind the damaged one at `damaged` begins.
///
/// Values hold what came from outside, so there may be bytes in them that look like a batch. What a
/// damaged batch says of its own lengths is believed as far as it fits what follows; elsewhere only
/// that is a batch from which the journal goes on to its end.
fn next_batch(bytes: &[u8], damaged: usize) -> Option<usize> {
    let mut at = damaged;
    let values = loop {
        let outline = outline(bytes, at);
        match outline.reach {
            Reach::End(end) if batch_at(bytes, end).is_some() => return Some(end),
            Reach::End(end) => at = end,
            Reach::Beyond | Reach::Lost => break outline.values,
        }
    };
    let mut seen = BTreeSet::new();
    let mut from = at + 1;
    for value in values {
        let found = (from..value.start).find(|next| goes_on(bytes, *next, &mut seen));
        if found.is_some() {
            return found;
        }
        from = value.end;
    }
    (from..bytes.len()).find(|next| goes_on(bytes, *next, &mut seen))
}

/// Is there a whole batch at `start`, and behind it others up to the end, the last of which may be
/// torn? `seen` are batches from which it does not go on.
fn goes_on(bytes: &[u8], start: usize, seen: &mut BTreeSet<usize>) -> bool {
    let mut at = start;
    while let Some(batch) = batch_at(bytes, at) {
        if !seen.insert(at) {
            return false;
        }
        at = batch.bytes.end;
    }
    let torn = || {
        bytes[at] == 1
            && matches!(outline(bytes, at).reach, Reach::Beyond)
            && !has_end(&bytes[at..])
    };
    at > start && (at == bytes.len() || torn())
}

/// What a batch that is not whole still says of itself.
#[derive(Debug)]
struct Outline {
    /// Values whose lengths fit what follows them, in order. The last one may go beyond the end.
    values: Vec<Range<usize>>,
    reach: Reach,
}

/// How far its lengths lead.
#[derive(Debug)]
enum Reach {
    /// To the end of the batch, which is here.
    End(usize),
    /// Beyond the end of the journal.
    Beyond,
    /// To something that has no place there.
    Lost,
}

/// Follows the lengths of the batch at `start`, whatever its first bytes and its checksum are.
fn outline(bytes: &[u8], start: usize) -> Outline {
    let mut values = Vec::new();
    // Not believed before something fits behind it.
    let mut last: Option<Range<usize>> = None;
    let mut at = start + START;
    let reach = loop {
        match bytes.get(at) {
            None => break Reach::Beyond,
            Some(2) if bytes.len() - at < ENTRY => break Reach::Beyond,
            Some(2) => {
                let Some(value) = value_at(bytes, at) else {
                    break Reach::Lost;
                };
                at = value.end;
                values.extend(last.replace(value));
            }
            Some(3) => match bytes.get(at + END - MAGIC.len()..at + END) {
                None => break Reach::Beyond,
                Some(magic) if is_nearly_magic(magic) => break Reach::End(at + END),
                Some(_) => break Reach::Lost,
            },
            Some(4) => at += CLEARED,
            Some(_) => break Reach::Lost,
        }
    };
    if !matches!(reach, Reach::Lost) {
        values.extend(last);
    }
    Outline { values, reach }
}

/// Where the value of the entry at `at` is, unless its two lengths contradict each other.
fn value_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let key = field(bytes, at + 11, 2)?;
    let (length, on_disk) = (field(bytes, at + 13, 4)?, field(bytes, at + 17, 4)?);
    let fits = match bytes.get(at + 2)? {
        0 => on_disk == length,
        // LZ4 makes what cannot be compressed longer by this at most.
        1 => on_disk <= length + length / 255 + 64,
        _ => false,
    };
    let start = at.checked_add(ENTRY + usize::try_from(key).ok()?)?;
    let end = start.checked_add(usize::try_from(on_disk).ok()?)?;
    fits.then_some(start..end)
}

/// A number of `length` bytes.
fn field(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at + length)?;
    let shift = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    Some(field.iter().rev().fold(0, shift))
}

/// The batch that begins at `start`, if it is whole.
fn batch_at(bytes: &[u8], start: usize) -> Option<Found> {
    let number = |at, length| field(bytes, at, length);
    if bytes.get(start) != Some(&1) || !matches!(bytes.get(start + START), Some(2 | 4)) {
        return None;
    }
    let (count, order) = (number(start + 1, 4)?, number(start + 5, 8)?);
    let first = start + START;
    let mut at = first;
    for _ in 0..count {
        at += match bytes.get(at)? {
            2 => {
                let (key, value) = (number(at + 11, 2)?, number(at + 17, 4)?);
                ENTRY + usize::try_from(key + value).ok()?
            }
            4 => CLEARED,
            _ => return None,
        };
    }
    let end = at + END;
    let whole = bytes.get(at) == Some(&3)
        && bytes.get(end - MAGIC.len()..end) == Some(MAGIC)
        && number(at + 1, 8)? == xxh3_64(&bytes[first..at]);
    whole.then_some(Found {
        bytes: start..end,
        number: order,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of one row.
    fn batch(number: u64, value: &[u8]) -> Vec<u8> {
        let mut entry = vec![2, 0, 0];
        entry.extend(7_u64.to_le_bytes());
        entry.extend(3_u16.to_le_bytes());
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        entry.extend(length);
        entry.extend(length);
        entry.extend(b"key");
        entry.extend(value);
        let mut batch = vec![1, 1, 0, 0, 0];
        batch.extend(number.to_le_bytes());
        batch.extend(&entry);
        batch.push(3);
        batch.extend(xxh3_64(&entry).to_le_bytes());
        batch.extend(MAGIC);
        batch
    }

    fn journal() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for number in 0..10_u64 {
            starts.push(bytes.len());
            bytes.extend(batch(number + 5, &number.to_le_bytes().repeat(9)));
        }
        (bytes, starts)
    }

    #[test]
    fn a_whole_journal_is_clean_with_zeros_behind_it_and_without() {
        let (mut bytes, _) = journal();
        for zeros in [0, 1000] {
            bytes.resize(bytes.len() + zeros, 0);
            let scan = Scan::of(&bytes);
            assert_eq!((scan.batches.len(), scan.gaps.len()), (10, 0));
            assert_eq!(scan.tail, Tail::Clean);
        }
    }

    #[test]
    fn wherever_it_is_cut_the_rest_is_torn() {
        let (bytes, starts) = journal();
        for cut in 1..bytes.len() {
            let scan = Scan::of(&bytes[..cut]);
            let whole = starts[1..].iter().filter(|start| **start <= cut).count();
            assert_eq!((scan.batches.len(), scan.gaps.len()), (whole, 0), "{cut}");
            let torn = !matches!(scan.tail, Tail::Damaged(_));
            assert!(torn, "{cut}: {:?}", scan.tail);
        }
    }

    #[test]
    fn whichever_bit_flips_one_batch_is_damaged_or_its_number_still_fits() {
        let (bytes, starts) = journal();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let scan = Scan::of(&bytes);
                let nth = starts.iter().filter(|start| **start <= at).count() - 1;
                let whole = scan.batches.len();
                let numbered = (5..START).contains(&(at - starts[nth]));
                if numbered && whole == 10 {
                    // Still between its neighbours.
                    continue;
                }
                assert_eq!(whole, 9, "byte {at} bit {bit}");
                let found = match &scan.tail {
                    Tail::Clean => scan.gaps.clone(),
                    Tail::Damaged(tail) => vec![tail.clone()],
                    Tail::Torn(tail) => panic!("byte {at} bit {bit}: torn at {tail:?}"),
                };
                assert_eq!(found.len(), 1, "byte {at} bit {bit}: {scan:?}");
                // Of two whose numbers contradict each other, nobody knows which is right.
                let before = numbered && nth > 0 && found[0].start == starts[nth - 1];
                assert!(
                    before || found[0].start == starts[nth],
                    "byte {at} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_batch_inside_a_value_is_none() {
        const FORGED: u64 = 99;
        let (whole, _) = journal();
        // Behind it something that looks like a torn one.
        let torn = &batch(FORGED + 1, &[7; 5000])[..200];
        let value = [[7; 20].as_slice(), &batch(FORGED, b"forged"), torn].concat();
        let outer = batch(50, &value);
        for cut in 1..outer.len() {
            let bytes = [whole.as_slice(), &outer[..cut]].concat();
            let scan = Scan::of(&bytes);
            assert_eq!((scan.batches.len(), scan.gaps.len()), (10, 0), "{cut}");
            let (Tail::Torn(tail) | Tail::Damaged(tail)) = scan.tail else {
                panic!("{cut}: nothing is torn");
            };
            assert_eq!(tail.start, whole.len(), "{cut}");
        }
        let behind = batch(60, &[9; 600]);
        for at in 0..outer.len() {
            for bit in 0..8 {
                let mut outer = outer.clone();
                outer[at] ^= 1 << bit;
                let scan = Scan::of(&[&whole, &outer, &behind].map(Vec::as_slice).concat());
                let numbers: Vec<u64> = scan.batches.iter().map(|batch| batch.number).collect();
                assert!(!numbers.contains(&FORGED), "byte {at} bit {bit}");
                assert_eq!(numbers.last(), Some(&60), "byte {at} bit {bit}");
            }
        }
    }
}
