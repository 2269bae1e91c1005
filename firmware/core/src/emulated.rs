//! NOR flash in memory, as it behaves: erasing sets every bit of a page, writing only clears bits,
//! and power can go in the middle of either. For tests and for the node on a PC.
//!
//! What a cut leaves follows from how serial NOR flash works. A write is a series of program
//! operations, each within [`PROGRAM`] bytes, which the chip does one after the other; within one,
//! the cells are programmed together, and each bit may have been cleared or not. An erasure clears
//! the cells of a page before it sets them, so it may leave any mix too, in any half of a page. What
//! was finished before is left alone. Bits that are drawn here read the same ever after: cells that
//! a cut leaves between 0 and 1, so that they read differently from one time to the next, are not
//! modelled.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// Bytes of a page, as the SPI flash beside an ESP32 has them.
pub const PAGE: usize = 4096;
/// Bytes that are written at least.
const WORD: usize = 4;
/// Bytes that the chip programs at once at most, and where it divides a longer write.
const PROGRAM: usize = 256;
/// What an erasure costs of the budget: as much as this many written bytes.
const ERASE_COST: u64 = 64;

/// NOR flash in memory.
#[derive(Clone, Debug)]
pub struct EmulatedFlash {
    bytes: Vec<u8>,
    /// Bytes that can be written before power goes.
    budget: Option<u64>,
    /// Decides what a torn write leaves.
    chance: u64,
    erasures: u64,
}

/// Why the flash did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashError {
    /// Not whole words or pages, or beyond the end.
    Address(NorFlashErrorKind),
    /// Power went while it was at it, or before.
    PowerCut,
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Address(kind) => *kind,
            Self::PowerCut => NorFlashErrorKind::Other,
        }
    }
}

impl EmulatedFlash {
    /// Erased flash of so many pages.
    pub fn erased(pages: usize) -> Self {
        Self::with(vec![0xff; pages * PAGE])
    }

    /// Flash with this in it.
    pub fn with(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            budget: None,
            chance: 1,
            erasures: 0,
        }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How often a page was erased.
    pub fn erasures(&self) -> u64 {
        self.erasures
    }

    /// Power goes after so many more written bytes; what is being written then is torn by `chance`.
    pub fn cut_after(&mut self, bytes: u64, chance: u64) {
        self.budget = Some(bytes);
        self.chance = chance | 1;
    }

    /// Power is back.
    pub fn power_on(&mut self) {
        self.budget = None;
    }

    fn range(&self, from: u32, length: usize, whole: usize) -> Result<Range<usize>, FlashError> {
        let from = usize::try_from(from).map_err(|_| out_of_bounds())?;
        if !from.is_multiple_of(whole) || !length.is_multiple_of(whole) {
            return Err(FlashError::Address(NorFlashErrorKind::NotAligned));
        }
        match from.checked_add(length) {
            Some(end) if end <= self.bytes.len() => Ok(from..end),
            _ => Err(out_of_bounds()),
        }
    }

    /// Takes from the budget. What is being done when it runs out is torn.
    fn is_torn_by(&mut self, cost: u64) -> bool {
        match &mut self.budget {
            None => false,
            Some(left) => {
                *left = left.saturating_sub(cost);
                *left == 0
            }
        }
    }

    /// Without power nothing happens at all.
    fn powered(&self) -> Result<(), FlashError> {
        match self.budget {
            Some(0) => Err(FlashError::PowerCut),
            _ => Ok(()),
        }
    }

    fn next_chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next_chance() >> 33).unwrap_or(0) % limit.max(1)
    }

    /// How far something got: from a share of the bits of 2^-16 to all but such a share.
    fn depth(&mut self) -> (usize, bool) {
        (1 + self.below(16), self.below(2) == 0)
    }

    /// Bits, of which such a share is set.
    fn bits(&mut self, (depth, is_most): (usize, bool)) -> u8 {
        let few = (0..depth).fold(0xff, |bits, _| bits & self.next_chance().to_le_bytes()[4]);
        if is_most { !few } else { few }
    }

    /// What a cut leaves of one program operation: a beginning that is done, a stretch where each
    /// bit is cleared or not, and an end that was not begun. The stretch can be all of it.
    fn tear_program(&mut self, place: usize, program: &[u8]) {
        let done = self.below(program.len() + 1) * self.below(2);
        let stretch = match self.below(3) {
            0 => program.len() - done,
            1 => self.below(program.len() - done + 1),
            _ => WORD.min(program.len() - done),
        };
        let depth = self.depth();
        for (index, &byte) in program.iter().enumerate().take(done + stretch) {
            let not_yet = if index < done { 0 } else { self.bits(depth) };
            if let Some(held) = self.bytes.get_mut(place + index) {
                *held &= byte | not_yet;
            }
        }
    }

    /// What a cut leaves of an erasure. The chip first clears all bits and then sets them all: in
    /// either half, some bits are there and others not, and one part of the page can be further
    /// than the other.
    fn tear_erase(&mut self, range: Range<usize>) {
        let is_clearing = self.below(4) == 0;
        let parts = [self.depth(), self.depth()];
        let split = match self.below(4) {
            0 => range.start,
            1 => range.start + self.below(range.len()),
            2 => range.start + self.below(64),
            _ => range.end - self.below(64),
        };
        for place in range {
            let bits = self.bits(parts[usize::from(place < split)]);
            if let Some(held) = self.bytes.get_mut(place) {
                *held = if is_clearing { *held & bits } else { bits };
            }
        }
    }
}

fn out_of_bounds() -> FlashError {
    FlashError::Address(NorFlashErrorKind::OutOfBounds)
}

impl ErrorType for EmulatedFlash {
    type Error = FlashError;
}

impl ReadNorFlash for EmulatedFlash {
    const READ_SIZE: usize = WORD;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.powered()?;
        let range = self.range(offset, bytes.len(), WORD)?;
        bytes.copy_from_slice(self.bytes.get(range).unwrap_or_default());
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for EmulatedFlash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = PAGE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let length = usize::try_from(to.saturating_sub(from)).map_err(|_| out_of_bounds())?;
        let range = self.range(from, length, PAGE)?;
        self.powered()?;
        self.erasures += 1;
        if self.is_torn_by(ERASE_COST) {
            self.tear_erase(range);
            return Err(FlashError::PowerCut);
        }
        if let Some(bytes) = self.bytes.get_mut(range) {
            bytes.fill(0xff);
        }
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let range = self.range(offset, bytes.len(), WORD)?;
        self.powered()?;
        let mut place = range.start;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (program, after) = rest.split_at(rest.len().min(PROGRAM - place % PROGRAM));
            if self.is_torn_by(program.len() as u64) {
                self.tear_program(place, program);
                return Err(FlashError::PowerCut);
            }
            let held = self.bytes.iter_mut().skip(place);
            held.zip(program).for_each(|(held, byte)| *held &= byte);
            place += program.len();
            rest = after;
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for EmulatedFlash {}
