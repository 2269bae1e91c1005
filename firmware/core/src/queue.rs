//! Where readings wait until they are acknowledged: flash, and the oldest of them in RAM as well.
//!
//! Every reading is in flash before the sampling loop goes on, so that a power cut at any moment
//! costs at most the reading that is being taken. The flash side is the queue of
//! `sequential-storage`: append-only pages, a checksum per item, an item is removed by clearing its
//! checksum, and a page is erased only when it comes round again. What a cut leaves that the crate
//! would not notice is mended at each start, before the crate sees it (`mend.rs`). `ekv` was the other candidate: a
//! key-value store in a log-structured merge tree, which rewrites entries when it compacts and
//! offers an order only by key; a queue needs neither.
//!
//! Wear: an entry of two quantities takes 64 bytes, 63 go on a page of 4 KiB. With 104 pages
//! (416 KiB) and a reading every 10 s, a page is erased every 18 h; at 100,000 erasures that flash
//! chips are sold for, that is more than 200 years ([`page_life_years`] computes it). Writing each
//! reading through is therefore affordable, and there is no second place where it could be lost.
//!
//! If the flash itself fails, readings wait in RAM only, up to [`SPARE`], and are counted.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use embedded_storage_async::nor_flash::{MultiwriteNorFlash, NorFlash};
use sequential_storage::Error;
use sequential_storage::cache::page_pointers::HeapPagePointers;
use sequential_storage::cache::page_states::HeapPageStates;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::queue::{QueueConfig, QueueStorage};

use crate::OpenError;
use crate::entry::{Entry, MAX_BYTES, Taken};
use crate::mend::{buffer_bytes, mend};

/// How many of the oldest are in RAM as well: more than may be in flight.
pub(crate) const WINDOW: usize = 24;

/// How many wait in RAM when the flash fails.
const SPARE: usize = 64;

/// How many boots without a clock are told apart.
const BOOTS: usize = 64;

type Store<F> = QueueStorage<F, Cache<HeapPageStates, HeapPagePointers, Uncached, ()>>;

/// The readings that wait, oldest first. Each has a number: the first ever is 0. A number never goes to
/// a newer reading than the one that had it.
pub(crate) struct Queue<F: MultiwriteNorFlash> {
    store: Store<F>,
    buffer: Vec<u8>,
    /// The number of the oldest.
    first: u64,
    /// How many are in flash.
    stored: usize,
    /// The oldest in flash, in the same order.
    window: VecDeque<Entry>,
    /// Those that the flash did not take; newer than all in it.
    spare: VecDeque<Entry>,
    boots: Vec<Boot>,
    dropped: u64,
    flash_errors: u64,
}

/// A boot some of whose readings have no time: when the newest of them was taken, and the first
/// behind them that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) id: [u8; 8],
    pub(crate) last_ms: u64,
    pub(crate) first_utc_ms: Option<i64>,
}

impl<F: MultiwriteNorFlash> Queue<F> {
    /// Takes what an earlier boot left.
    pub(crate) async fn open(flash: F) -> Result<Self, OpenError> {
        const {
            // Or there are entries that no page takes.
            assert!(MAX_BYTES + 64 <= F::ERASE_SIZE);
        }
        let pages = flash.capacity() / F::ERASE_SIZE;
        let end = u32::try_from(pages * F::ERASE_SIZE).map_err(|_| OpenError::Flash)?;
        let config = QueueConfig::try_new(0..end).map_err(|_| OpenError::Flash)?;
        if pages < 2 {
            return Err(OpenError::Flash);
        }
        let cache = Cache::new(
            HeapPageStates::new(pages),
            HeapPagePointers::new(pages),
            Uncached,
        );
        let mut queue = Self {
            store: QueueStorage::new(flash, config, cache),
            buffer: alloc::vec![0; buffer_bytes::<F>()],
            first: 0,
            stored: 0,
            window: VecDeque::with_capacity(WINDOW),
            spare: VecDeque::new(),
            boots: Vec::new(),
            dropped: 0,
            flash_errors: 0,
        };
        if let Err(error) = queue.look_through().await {
            queue.flash_errors += 1;
            queue.window.clear();
            queue.stored = 0;
            // Damaged as no power cut damages it: better empty than dead. What the flash itself did
            // not give may come at the next start.
            if !matches!(error, Error::Storage { .. }) {
                let _still_broken = queue.store.erase_all().await;
            }
        }
        Ok(queue)
    }

    /// Mends what a power cut left, counts what is there, and takes the oldest into RAM.
    async fn look_through(&mut self) -> Result<(), Error<F::Error>> {
        self.window.clear();
        self.stored = 0;
        let mended = mend(self.store.flash(), &mut self.buffer).await;
        mended.map_err(|value| Error::Storage { value })?;
        let mut items = self.store.iter().await?;
        while let Some(item) = items.next(&mut self.buffer).await? {
            let Some(entry) = Entry::decode(&item) else {
                // Of another version of the firmware, or not from here.
                item.pop().await?;
                self.dropped += 1;
                continue;
            };
            note(&mut self.boots, &entry);
            self.stored += 1;
            if self.window.len() < WINDOW {
                self.window.push_back(entry);
            }
        }
        Ok(())
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.stored + self.spare.len()
    }

    /// How many were dropped because there was no room, the oldest first.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How often the flash failed.
    pub(crate) fn flash_errors(&self) -> u64 {
        self.flash_errors
    }

    /// Boots without a clock, oldest first.
    pub(crate) fn boots(&self) -> &[Boot] {
        &self.boots
    }

    /// The number of the oldest.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Puts one behind all others. When this returns it is in flash, or the flash does not work.
    pub(crate) async fn push(&mut self, entry: Entry) {
        note(&mut self.boots, &entry);
        let bytes = entry.encode();
        // What could not be written goes first, or the order would change.
        while let Some(waiting) = self.spare.front() {
            let bytes = waiting.encode();
            if !self.write(&bytes).await {
                break;
            }
            if let Some(entry) = self.spare.pop_front() {
                self.count_stored(entry);
            }
        }
        if self.spare.is_empty() && self.write(&bytes).await {
            self.count_stored(entry);
            return;
        }
        self.flash_errors += 1;
        if self.spare.len() == SPARE {
            // Those in flash are older, but they are safe there. The numbers of those in RAM stay as
            // they are; those of what is in flash go up by one, so that at most some of it is sent
            // twice. The other way round what was not sent would be taken for sent.
            self.spare.pop_front();
            self.first += 1;
            self.dropped += 1;
        }
        self.spare.push_back(entry);
    }

    fn count_stored(&mut self, entry: Entry) {
        if self.window.len() == self.stored && self.window.len() < WINDOW {
            self.window.push_back(entry);
        }
        self.stored += 1;
    }

    /// Whether the flash has it.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        let mut is_freed = false;
        loop {
            match self.store.push(bytes, false).await {
                Ok(()) => return true,
                Err(Error::FullStorage) if !is_freed => {
                    // A page with nothing but removed and torn ones is erased when it is passed.
                    is_freed = true;
                    if self.store.peek(&mut self.buffer).await.is_err() {
                        return false;
                    }
                }
                Err(Error::FullStorage) => {
                    if !self.remove_oldest().await {
                        return false;
                    }
                    self.dropped += 1;
                }
                Err(_) => return false,
            }
        }
    }

    /// Takes the oldest out of the flash.
    async fn remove_oldest(&mut self) -> bool {
        match self.store.pop(&mut self.buffer).await {
            Ok(Some(_)) => {
                self.first += 1;
                self.stored = self.stored.saturating_sub(1);
                self.window.pop_front();
                true
            }
            Ok(None) => {
                self.give_up_stored();
                false
            }
            Err(_) => {
                self.flash_errors += 1;
                false
            }
        }
    }

    /// Counts what is in flash as lost: it cannot be read any more.
    fn give_up_stored(&mut self) {
        self.dropped += self.stored as u64;
        self.first += self.stored as u64;
        self.stored = 0;
        self.window.clear();
    }

    /// The one with this number, if it waits.
    pub(crate) async fn get(&mut self, number: u64) -> Option<Entry> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        if place >= self.stored {
            return self.spare.get(place - self.stored).cloned();
        }
        if place >= self.window.len() && place < WINDOW && self.fill().await.is_err() {
            self.flash_errors += 1;
            return None;
        }
        if self.window.is_empty() && self.stored > 0 {
            // They went bad while they waited.
            self.give_up_stored();
            return None;
        }
        self.window.get(place).cloned()
    }

    /// Reads on behind the window until it is full.
    async fn fill(&mut self) -> Result<(), Error<F::Error>> {
        let known = self.window.len();
        let mut items = self.store.iter().await?;
        let mut place = 0;
        while self.window.len() < WINDOW {
            let Some(item) = items.next(&mut self.buffer).await? else {
                break;
            };
            if place >= known
                && let Some(entry) = Entry::decode(&item)
            {
                self.window.push_back(entry);
            }
            place += 1;
        }
        Ok(())
    }

    /// Removes the oldest: it was acknowledged. False if the flash does not let go of it: then it
    /// is sent again after the next boot, and the engine knows that it has it.
    pub(crate) async fn pop(&mut self) -> bool {
        if self.stored > 0 {
            return self.remove_oldest().await;
        }
        if self.spare.pop_front().is_some() {
            self.first += 1;
        }
        true
    }
}

/// Keeps in mind when the readings of a boot without a clock were taken.
fn note(boots: &mut Vec<Boot>, entry: &Entry) {
    let known = boots.last_mut().filter(|boot| boot.id == entry.boot);
    match (entry.taken, known) {
        (Taken::Uptime(ms), Some(boot)) => boot.last_ms = boot.last_ms.max(ms),
        (Taken::Utc(ms), Some(boot)) => boot.first_utc_ms = boot.first_utc_ms.or(Some(ms)),
        (Taken::Utc(_), None) => {}
        (Taken::Uptime(last_ms), None) => {
            if boots.len() == BOOTS {
                boots.remove(0);
            }
            boots.push(Boot {
                id: entry.boot,
                last_ms,
                first_utc_ms: None,
            });
        }
    }
}

/// Bytes in flash of an entry with a sensor id of 4 characters and so many quantities.
const fn entry_bytes(quantities: usize) -> usize {
    const HEADER: usize = 8;
    (HEADER + 2 + 8 + 8 + 8 + 4 + 2 + 4 + 1 + 9 * quantities).next_multiple_of(4)
}

/// How many readings of so many quantities a queue of so many bytes holds for certain: one page is
/// always being erased.
pub fn capacity_readings<F: NorFlash>(flash_bytes: usize, quantities: usize) -> usize {
    let per_page = (F::ERASE_SIZE - 2 * F::WRITE_SIZE) / entry_bytes(quantities);
    (flash_bytes / F::ERASE_SIZE).saturating_sub(1) * per_page
}

/// For how many hours readings wait at most, at one reading per `interval_ms`.
pub fn capacity_hours<F: NorFlash>(flash_bytes: usize, quantities: usize, interval_ms: u32) -> f64 {
    capacity_readings::<F>(flash_bytes, quantities) as f64 * f64::from(interval_ms) / 3_600_000.0
}

/// For how many years the flash lasts if each page stands `erasures`.
pub fn page_life_years<F: NorFlash>(
    flash_bytes: usize,
    quantities: usize,
    interval_ms: u32,
    erasures: u32,
) -> f64 {
    let pages = (flash_bytes / F::ERASE_SIZE) as f64;
    let per_page = ((F::ERASE_SIZE - 2 * F::WRITE_SIZE) / entry_bytes(quantities)) as f64;
    let ms = pages * per_page * f64::from(interval_ms) * f64::from(erasures);
    ms / (365.25 * 86_400_000.0)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString as _;
    use alloc::vec::Vec;
    use std::collections::VecDeque;

    use embassy_futures::block_on;

    use super::*;
    use crate::emulated::EmulatedFlash;
    use crate::entry::tests::sample;

    fn open(flash: &mut EmulatedFlash) -> Queue<&mut EmulatedFlash> {
        block_on(Queue::open(flash)).unwrap()
    }

    /// All that waits, oldest first, without taking it out.
    fn seqs(flash: &EmulatedFlash) -> Vec<u64> {
        let mut copy = flash.clone();
        let mut queue = open(&mut copy);
        let mut seqs = Vec::new();
        while let Some(entry) = block_on(queue.get(queue.first())) {
            seqs.push(entry.seq);
            assert!(block_on(queue.pop()));
        }
        assert_eq!(queue.len(), 0);
        seqs
    }

    #[test]
    fn what_went_in_comes_out_in_order_across_starts() {
        let mut flash = EmulatedFlash::erased(4);
        let mut queue = open(&mut flash);
        for seq in 0..100 {
            block_on(queue.push(sample(seq)));
        }
        for number in 0..30 {
            assert_eq!(block_on(queue.get(number)).unwrap().seq, number);
            assert!(block_on(queue.pop()));
        }
        // Ahead of the oldest, as far as a session looks.
        assert_eq!(block_on(queue.get(30 + 15)).unwrap().seq, 45);
        assert_eq!((queue.len(), queue.first(), queue.dropped()), (70, 30, 0));
        assert_eq!(seqs(&flash), (30..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_go_first_when_it_is_full_and_are_counted() {
        const PUSHED: u64 = 1_000;
        let mut flash = EmulatedFlash::erased(4);
        let certain = capacity_readings::<EmulatedFlash>(4 * crate::emulated::PAGE, 2) as u64;
        let mut queue = open(&mut flash);
        for seq in 0..PUSHED {
            block_on(queue.push(sample(seq)));
        }
        let (left, dropped) = (queue.len() as u64, queue.dropped());
        assert_eq!(left + dropped, PUSHED);
        assert!(left >= certain, "{left} of {certain}");
        assert_eq!(block_on(queue.get(queue.first())).unwrap().seq, dropped);
        assert_eq!(seqs(&flash), (dropped..PUSHED).collect::<Vec<_>>());
    }

    #[test]
    fn the_capacity_is_what_the_documentation_says() {
        // As in firmware/partitions.csv and README.md.
        const PAGES: usize = 104;
        const BYTES: usize = PAGES * crate::emulated::PAGE;
        assert_eq!(BYTES, 416 * 1024);
        assert_eq!(entry_bytes(2), 64);
        assert_eq!(capacity_readings::<EmulatedFlash>(BYTES, 2), 6_489);
        for (interval_ms, hours, years) in [
            (10_000, 18, 208),
            (60_000, 108, 1_246),
            (600_000, 1_082, 12_457),
        ] {
            let rounded = |exact: f64| format!("{exact:.0}");
            let capacity = capacity_hours::<EmulatedFlash>(BYTES, 2, interval_ms);
            assert_eq!(rounded(capacity), hours.to_string());
            let life = page_life_years::<EmulatedFlash>(BYTES, 2, interval_ms, 100_000);
            assert_eq!(rounded(life), years.to_string());
        }
        // And it is so: of twice as many, at least that many are kept.
        let mut flash = EmulatedFlash::erased(PAGES);
        let mut queue = open(&mut flash);
        for seq in 0..2 * 6_489 {
            block_on(queue.push(sample(seq)));
        }
        assert!(queue.len() >= 6_489, "{}", queue.len());
        assert_eq!(queue.len() as u64 + queue.dropped(), 2 * 6_489);
    }

    /// Sends as a session does, while the flash takes nothing any more.
    #[test]
    fn with_a_dead_flash_all_is_sent_or_counted_and_nothing_else_is_acknowledged() {
        const PUSHED: u64 = 1_200;
        for kept in [0, 5, 20] {
            let mut flash = EmulatedFlash::erased(4);
            let mut queue = open(&mut flash);
            for seq in 0..kept {
                block_on(queue.push(sample(seq)));
            }
            queue.store.flash().cut_after(1, 1);
            let mut sent = std::collections::BTreeSet::new();
            let mut in_flight = VecDeque::new();
            let mut next = queue.first();
            for seq in kept..PUSHED {
                block_on(queue.push(sample(seq)));
                assert!(queue.len() <= usize::try_from(kept).unwrap() + SPARE);
                // The broker is slow for a while, then fast.
                let is_slow = seq % 400 < 200;
                next = next.max(queue.first());
                while in_flight.len() < 16
                    && let Some(entry) = block_on(queue.get(next))
                {
                    sent.insert(entry.seq);
                    in_flight.push_back(next);
                    next += 1;
                }
                for _ in 0..if is_slow { seq % 2 } else { 16 } {
                    let Some(number) = in_flight.pop_front() else {
                        break;
                    };
                    if queue.first() == number {
                        let oldest = block_on(queue.get(number)).unwrap();
                        assert!(sent.contains(&oldest.seq), "{} of {seq}", oldest.seq);
                        block_on(queue.pop());
                    }
                }
            }
            let lost = PUSHED - sent.len() as u64;
            assert!(lost > 0 && lost <= queue.dropped(), "{lost} with {kept}");
            assert_eq!(sent.last(), Some(&(PUSHED - 1)), "with {kept}");
        }
    }

    #[test]
    fn every_page_wears_alike() {
        let mut flash = EmulatedFlash::erased(8);
        let mut queue = open(&mut flash);
        for seq in 0..63 * 8 * 10 {
            block_on(queue.push(sample(seq)));
            assert!(block_on(queue.pop()));
        }
        drop(queue);
        let erasures = flash.erasures();
        assert!(
            (70..=90).contains(&erasures),
            "{erasures} for 80 pages written"
        );
    }

    /// Power goes at a random point of the writing, again and again. What was told to be kept is
    /// there, in order; what was taken out does not come back, but for the one that was being taken
    /// out; and the flash takes new readings. Most have room; the last are full nearly always, and
    /// there the oldest go.
    #[test]
    fn a_power_cut_loses_nothing_that_was_kept() {
        let cuts = std::env::var("VIGIE_POWER_CUTS").map_or(500, |text| text.parse().unwrap());
        let seed = std::env::var("VIGIE_POWER_SEED").map_or(1, |text| text.parse().unwrap());
        for (pages, most) in [(6, 120), (2, 24), (3, 60), (4, usize::MAX)] {
            cut_power(pages, most, cuts / 4, seed);
        }
    }

    /// In so many pages, in which at most so many readings wait.
    fn cut_power(pages: usize, most: usize, cuts: u64, seed: u64) {
        let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        let is_full = most == usize::MAX;
        let mut flash = EmulatedFlash::erased(pages);
        let mut kept = VecDeque::new();
        let mut seq = 0;
        for cut in 0..cuts {
            // Also while it mends what the cut before left.
            let most_bytes = [30, 300, 4_000][usize::try_from(next(3)).unwrap()];
            let (budget, seed) = (1 + next(most_bytes), next(u64::MAX));
            flash.cut_after(budget, seed);
            // Being written, and being taken out, when the power went.
            let (mut half_in, mut half_out) = (None, None);
            let mut queue = open(&mut flash);
            loop {
                let dropped = queue.dropped;
                if next(3) > 0 && kept.len() < most {
                    block_on(queue.push(sample(seq)));
                    for _ in dropped..queue.dropped {
                        kept.pop_front();
                    }
                    if queue.flash_errors > 0 || !queue.spare.is_empty() {
                        half_in = Some(seq);
                        // It may have been making room.
                        half_out = kept.front().copied().filter(|_| is_full);
                        seq += 1;
                        break;
                    }
                    kept.push_back(seq);
                    seq += 1;
                } else if let Some(&oldest) = kept.front() {
                    if !block_on(queue.pop()) || queue.flash_errors > 0 {
                        half_out = Some(oldest);
                        break;
                    }
                    kept.pop_front();
                } else if queue.flash_errors > 0 {
                    break;
                }
            }
            assert!(is_full || queue.dropped == 0, "cut {cut} of {pages} pages");
            drop(queue);
            flash.power_on();

            let found = VecDeque::from(seqs(&flash));
            if half_out.is_some() && found.front() != half_out.as_ref() {
                kept.pop_front();
            }
            if half_in.is_some() && found.back() == half_in.as_ref() {
                kept.push_back(seq - 1);
            }
            assert_eq!(
                found, kept,
                "cut {cut} of {pages} pages after {budget} bytes"
            );
        }
    }

    #[test]
    fn any_bytes_in_the_flash_are_survived() {
        let mut chance = 88_172_645_463_325_252_u64;
        let mut good = EmulatedFlash::erased(3);
        let mut queue = open(&mut good);
        for seq in 0..120 {
            block_on(queue.push(sample(seq)));
        }
        drop(queue);
        for round in 0..200 {
            let mut bytes = good.bytes().to_vec();
            let damaged = if round % 2 == 0 {
                1 + round
            } else {
                bytes.len()
            };
            for _ in 0..damaged {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                let place = usize::try_from(chance >> 16).unwrap() % bytes.len();
                bytes[place] = chance.to_le_bytes()[0];
            }
            let mut flash = EmulatedFlash::with(bytes);
            let mut queue = open(&mut flash);
            block_on(queue.push(sample(999)));
            // Such damage, which no power cut does, may cost readings; it ends, and nothing panics.
            for _ in 0..1_000 {
                block_on(queue.get(queue.first()));
                block_on(queue.pop());
            }
            assert_eq!(queue.len(), 0, "round {round}");
        }
    }
}
