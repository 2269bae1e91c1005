//! Puts the flash of the queue and of the facts in order after a power cut, where `sequential-storage`
//! would not.
//!
//! The crate finds most of what a cut leaves by its checksums. Three things it does not:
//!
//! - An erasure that was cut can leave a page that counts as erased and is not, or one that counts as
//!   the page being written. What is then written there is lost, or never found.
//! - A torn header is skipped word by word, and the next item is put right behind. The last word of
//!   the torn one and the first of the new one, which is a checksum, can look like a header together,
//!   once in 65,536 times; the new item is then skipped with it
//!   (<https://github.com/tweedegolf/sequential-storage/issues/136>).
//! - Torn bytes that look like a header can be of any length, up to a page: the buffer for reading
//!   must be as large ([`buffer_bytes`]).
//!
//! So this looks at the pages before the crate does. Erased pages must be blank; of two pages that
//! are being written one was being erased; and behind torn words comes an empty item that is removed
//! already, which cannot be part of another header. It erases only pages in which no item is whole.
//!
//! The format in flash is that of version 8 of the crate: a change of it is a major version.

use alloc::vec::Vec;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;

/// As many zero bits make a marker.
const MARKED_BITS: u32 = 4;
/// Checksum of the data, length, checksum of the length.
const HEADER: usize = 8;

/// How a page counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Being written.
    Partial,
    Closed,
    /// None of these: an erasure was cut.
    Torn,
}

/// What is in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    /// There is an item that is whole and not removed.
    is_live: bool,
    /// Where the next item goes.
    free: usize,
    /// There are torn words right before that.
    is_behind_torn: bool,
    /// Nothing is written from there on.
    is_rest_blank: bool,
}

/// How large a buffer must be so that every item fits that may seem to be there.
pub(crate) const fn buffer_bytes<F: MultiwriteNorFlash>() -> usize {
    F::ERASE_SIZE
}

/// What is read and written at once.
const fn word<F: MultiwriteNorFlash>() -> usize {
    if F::WRITE_SIZE > F::READ_SIZE {
        F::WRITE_SIZE
    } else {
        F::READ_SIZE
    }
}

/// Puts the pages in order. The buffer is of [`buffer_bytes`].
pub(crate) async fn mend<F: MultiwriteNorFlash>(
    flash: &mut F,
    buffer: &mut [u8],
) -> Result<(), F::Error> {
    let pages = flash.capacity() / F::ERASE_SIZE;
    let mut states = Vec::with_capacity(pages);
    let mut partial = Vec::new();
    for page in 0..pages {
        flash.read(address::<F>(page), buffer).await?;
        let mut state = state(buffer, F::READ_SIZE);
        let content = content(buffer, word::<F>());
        let is_half_erased = match state {
            State::Torn => true,
            State::Open => !is_blank(buffer.get(word::<F>()..)),
            State::Partial => !content.is_live && !content.is_rest_blank,
            // Removed when it is passed.
            State::Closed => false,
        };
        if is_half_erased {
            erase(flash, page).await?;
            state = State::Open;
        }
        if state == State::Partial {
            partial.push((page, content));
        }
        states.push(state);
    }
    let is_any_closed = states.contains(&State::Closed);
    for &(page, content) in &partial {
        // The page being written follows a closed one, if there is any; the page being erased is
        // the oldest, and comes before the others.
        let before = states.get((page + pages - 1) % pages);
        let is_oldest = is_any_closed && before == Some(&State::Open);
        if !content.is_live && (partial.len() > 1 || is_oldest) {
            erase(flash, page).await?;
        } else if content.is_behind_torn {
            shield(flash, page, content.free).await?;
        }
    }
    Ok(())
}

fn address<F: MultiwriteNorFlash>(page: usize) -> u32 {
    // The queue was opened with a range of u32.
    u32::try_from(page * F::ERASE_SIZE).unwrap_or(u32::MAX)
}

async fn erase<F: MultiwriteNorFlash>(flash: &mut F, page: usize) -> Result<(), F::Error> {
    flash
        .erase(address::<F>(page), address::<F>(page + 1))
        .await
}

/// Puts an empty item that is removed already behind torn words.
async fn shield<F: MultiwriteNorFlash>(
    flash: &mut F,
    page: usize,
    free: usize,
) -> Result<(), F::Error> {
    let length = HEADER.next_multiple_of(word::<F>());
    if free + length > F::ERASE_SIZE - word::<F>() {
        // No item goes there either.
        return Ok(());
    }
    let mut item = alloc::vec![0xff; length];
    item.splice(..HEADER, removed_item());
    let place = address::<F>(page) + u32::try_from(free).unwrap_or(0);
    flash.write(place, &item).await
}

/// The header of an empty item that was removed.
fn removed_item() -> [u8; HEADER] {
    let [low, high] = crc16([0, 0]).to_le_bytes();
    [0, 0, 0, 0, 0, 0, low, high]
}

fn is_blank(bytes: Option<&[u8]>) -> bool {
    bytes.unwrap_or_default().iter().all(|&byte| byte == 0xff)
}

fn state(page: &[u8], read_size: usize) -> State {
    let is_marked = |bytes: Option<&[u8]>| {
        let zeros = bytes
            .unwrap_or_default()
            .iter()
            .map(|byte| byte.count_zeros());
        zeros.sum::<u32>() >= MARKED_BITS
    };
    let end = page.len().saturating_sub(read_size);
    match (is_marked(page.get(..read_size)), is_marked(page.get(end..))) {
        (false, false) => State::Open,
        (true, false) => State::Partial,
        (true, true) => State::Closed,
        (false, true) => State::Torn,
    }
}

/// Goes from header to header as the crate does.
fn content(page: &[u8], word: usize) -> Content {
    let page = page
        .get(..page.len().saturating_sub(word))
        .unwrap_or_default();
    let header = HEADER.next_multiple_of(word);
    let (mut is_live, mut is_behind_torn) = (false, false);
    let mut free = word;
    while let Some(bytes) = page.get(free..free + header) {
        if is_blank(Some(bytes)) {
            break;
        }
        let item = length(bytes).and_then(|length| {
            let data = free + header;
            let next = data + length.next_multiple_of(word);
            (next <= page.len()).then_some((data..data + length, next))
        });
        is_behind_torn = item.is_none();
        if let Some((data, next)) = item {
            let crc = bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            is_live |= page.get(data).map(crc32) == crc;
            free = next;
        } else {
            free += word;
        }
    }
    Content {
        is_live,
        free,
        is_behind_torn,
        is_rest_blank: is_blank(page.get(free..)),
    }
}

/// The length in a header, if the header is whole.
fn length(header: &[u8]) -> Option<usize> {
    let &[_, _, _, _, a, b, c, d] = header.first_chunk::<HEADER>()?;
    let is_whole = crc16([a, b]) == u16::from_le_bytes([c, d]);
    is_whole.then_some(usize::from(u16::from_le_bytes([a, b])))
}

/// The checksum of a length. Never that of erased flash.
fn crc16(bytes: [u8; 2]) -> u16 {
    let mut crc = 0xffff;
    for byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x1a2e * (crc & 1));
        }
    }
    match !crc {
        0xffff => 0xfffe,
        crc => crc,
    }
}

/// The checksum of an item's data. Never 0, which marks a removed item.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = 0xeeee_eeee_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    match !crc {
        0 => 1,
        crc if matches!(crc & 0xff, 0 | 0xff) => crc ^ 1,
        crc => crc,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use embassy_futures::block_on;
    use embedded_storage_async::nor_flash::NorFlash as _;

    use super::*;
    use crate::emulated::{EmulatedFlash, PAGE};
    use crate::entry::tests::sample;
    use crate::queue::Queue;

    fn push(flash: &mut EmulatedFlash, seqs: impl IntoIterator<Item = u64>) {
        let mut queue = block_on(Queue::open(flash)).unwrap();
        for seq in seqs {
            block_on(queue.push(sample(seq)));
        }
        assert_eq!(queue.flash_errors(), 0);
    }

    /// Takes out so many, or all.
    fn pop(flash: &mut EmulatedFlash, most: usize) -> Vec<u64> {
        let mut queue = block_on(Queue::open(flash)).unwrap();
        let mut seqs = Vec::new();
        while seqs.len() < most
            && let Some(entry) = block_on(queue.get(queue.first()))
        {
            seqs.push(entry.seq);
            assert!(block_on(queue.pop()));
        }
        assert_eq!((queue.flash_errors(), queue.dropped()), (0, 0));
        seqs
    }

    /// The checksum of this one, read as a length and its checksum, is right.
    #[test]
    fn torn_words_and_the_next_item_are_not_taken_for_one() {
        const SEQ: u64 = 842_310;
        let mut as_header = [0; HEADER];
        as_header[4..].copy_from_slice(&crc32(&sample(SEQ).encode()).to_le_bytes());
        assert_eq!(length(&as_header), Some(987));

        let mut flash = EmulatedFlash::erased(3);
        push(&mut flash, 0..5);
        let free = content(&flash.bytes()[..PAGE], 4).free;
        // Of the header, one word was written, and not all its bits.
        let place = u32::try_from(free).unwrap();
        block_on(flash.write(place, &[0x5a, 0xff, 0x81, 0xf7])).unwrap();
        push(&mut flash, [SEQ, 6, 7]);
        assert_eq!(pop(&mut flash, 9), [0, 1, 2, 3, 4, SEQ, 6, 7]);
    }

    /// 0 and a checksum that is not 0.
    #[test]
    fn what_is_put_behind_torn_words_is_no_end_of_a_header() {
        assert_ne!(crc16([0, 0]), 0);
        assert_eq!(length(&removed_item()), Some(0));
    }

    /// It cannot be read into a buffer for the longest entry.
    #[test]
    fn torn_words_that_look_like_a_long_item_cost_nothing() {
        let mut flash = EmulatedFlash::erased(3);
        push(&mut flash, 0..5);
        let free = content(&flash.bytes()[..PAGE], 4).free;
        let [a, b] = 2_944_u16.to_le_bytes();
        let [c, d] = crc16([a, b]).to_le_bytes();
        let place = u32::try_from(free).unwrap();
        block_on(flash.write(place, &[0x5a, 0xff, 0x81, 0xf7, a, b, c, d])).unwrap();
        push(&mut flash, 5..100);
        assert_eq!(pop(&mut flash, 200), (0..100).collect::<Vec<_>>());
    }

    /// A page as a cut erasure may leave it: its ends marked or not, and this inside.
    fn tear(page: &mut [u8], is_start: bool, is_end: bool, inside: u8) {
        let mark = |is_marked| if is_marked { 0 } else { 0xff };
        let last = page.len() - 4;
        page.fill(inside);
        page[..4].fill(mark(is_start));
        page[last..].fill(mark(is_end));
    }

    /// Whatever a cut erasure makes the oldest page look like, in whichever state the others are.
    #[test]
    fn an_erasure_is_finished() {
        for state in 0..8 {
            for (pages, pushed) in [(2, 70), (3, 70), (3, 126), (3, 150), (6, 150)] {
                let mut flash = EmulatedFlash::erased(pages);
                push(&mut flash, 0..pushed);
                // All of the first page, and one more.
                assert_eq!(pop(&mut flash, 64).len(), 64);
                let mut bytes = flash.bytes().to_vec();
                let inside = if state & 4 == 0 { 0x5a } else { 0xff };
                tear(&mut bytes[..PAGE], state & 1 == 0, state & 2 == 0, inside);
                if pushed == 126 {
                    // Full and closed, and no other is being written.
                    bytes[2 * PAGE - 4..2 * PAGE].fill(0);
                }
                let mut flash = EmulatedFlash::with(bytes);
                push(&mut flash, pushed..pushed + 30);
                let left = (64..pushed + 30).collect::<Vec<_>>();
                assert_eq!(pop(&mut flash, 400), left, "{state} {pages} {pushed}");
            }
        }
    }

    /// Also that of the page being written, in which no reading is.
    #[test]
    fn an_erasure_is_finished_if_there_is_no_other_page() {
        for state in 0..4 {
            let mut bytes = alloc::vec![0xff; 3 * PAGE];
            tear(&mut bytes[..PAGE], state & 1 == 0, state & 2 == 0, 0xff);
            bytes[100..104].fill(0x5a);
            bytes[200..204].fill(0x5a);
            let mut flash = EmulatedFlash::with(bytes);
            push(&mut flash, 0..30);
            assert_eq!(pop(&mut flash, 400), (0..30).collect::<Vec<_>>(), "{state}");
        }
    }

    /// It counts as one that waits until its page is passed.
    #[test]
    fn a_torn_item_costs_no_other_when_it_is_full() {
        let mut flash = EmulatedFlash::erased(3);
        push(&mut flash, 0..5);
        let end = content(&flash.bytes()[..PAGE], 4).free;
        let last_word = u32::try_from(end - 4).unwrap();
        block_on(flash.write(last_word, &[0; 4])).unwrap();
        push(&mut flash, 5..3 * 63);
        let mut queue = block_on(Queue::open(&mut flash)).unwrap();
        for _ in 0..62 {
            assert!(block_on(queue.pop()));
        }
        block_on(queue.push(sample(189)));
        assert_eq!((queue.dropped(), queue.len()), (0, 127));
    }

    #[test]
    fn flash_in_order_is_left_as_it_is() {
        let mut flash = EmulatedFlash::erased(4);
        for round in 0..100_u64 {
            push(&mut flash, round * 7..round * 7 + 7);
            let before = flash.bytes().to_vec();
            let mut buffer = [0; PAGE];
            block_on(mend(&mut flash, &mut buffer)).unwrap();
            assert!(flash.bytes() == before, "{round}");
            assert_eq!(pop(&mut flash, 7).len(), 7);
            assert!(pop(&mut flash, 7).is_empty());
        }
        assert!(flash.erasures() < 12, "{}", flash.erasures());
    }
}
