//! NOR flash in memory, as it behaves: erasing sets every bit of a page, writing only clears bits,
//! and power can go in the middle of either. For tests and for the node on a PC.

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
            // Some bits are set already, others not yet.
            for place in range {
                let bits = self.next_chance().to_le_bytes()[3];
                if let Some(byte) = self.bytes.get_mut(place) {
                    *byte |= bits;
                }
            }
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
        for (place, &byte) in range.zip(bytes) {
            let is_torn = self.is_torn_by(1);
            // Some of the bits are cleared, others not yet.
            let not_yet = if is_torn {
                self.next_chance().to_le_bytes()[3]
            } else {
                0
            };
            if let Some(held) = self.bytes.get_mut(place) {
                *held &= byte | not_yet;
            }
            if is_torn {
                return Err(FlashError::PowerCut);
            }
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for EmulatedFlash {}
