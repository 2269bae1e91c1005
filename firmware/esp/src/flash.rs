//! The partitions of the flash that are the node's own, found by label in the partition table.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use esp_bootloader_esp_idf::partitions::{self, PARTITION_TABLE_MAX_LEN, PartitionTable};
use esp_hal::peripherals::FLASH;
use esp_storage::{FlashStorage, FlashStorageError};

/// What to do about a config that is missing or damaged.
pub(crate) const HOW_TO_CONFIGURE: &str =
    "make one with `engine node config` and write it with `espflash write-bin` (see README.md)";

/// The node's partitions.
pub(crate) struct Partitions {
    config: Region,
    /// Where readings wait.
    pub(crate) queue: Region,
    /// Where a few facts outlive a boot.
    pub(crate) facts: Region,
}

impl Partitions {
    /// Reads the partition table.
    ///
    /// # Errors
    ///
    /// What is missing, in words.
    pub(crate) fn find(flash: FLASH<'static>) -> Result<Self, String> {
        let mut flash = FlashStorage::new(flash);
        let mut bytes = vec![0; PARTITION_TABLE_MAX_LEN];
        let table = partitions::read_partition_table(&mut flash, &mut bytes)
            .map_err(|why| format!("the partition table cannot be read: {why}"))?;
        let config = range(&table, "config")?;
        let queue = range(&table, "queue")?;
        let facts = range(&table, "facts")?;
        // For the rest of the run: the three pieces share the chip.
        let flash: &'static RefCell<_> = Box::leak(Box::new(RefCell::new(flash)));
        let region = |(offset, length)| Region {
            flash,
            offset,
            length,
        };
        Ok(Self {
            config: region(config),
            queue: region(queue),
            facts: region(facts),
        })
    }

    /// All of the config's partition.
    ///
    /// # Errors
    ///
    /// When the flash cannot be read.
    pub(crate) fn config_bytes(&self) -> Result<Vec<u8>, String> {
        let length = usize::try_from(self.config.length).unwrap_or(0);
        let mut bytes = vec![0; length.min(vigie_wire::node::MAX_BYTES)];
        self.config
            .flash
            .borrow_mut()
            .read_nor(self.config.offset, &mut bytes)
            .map_err(|why| format!("the config cannot be read: {why:?}"))?;
        Ok(bytes)
    }
}

/// Offset and length of a partition. By label and not by `find_partition`, which panics at a type that it
/// does not know, and a table may hold any.
fn range(table: &PartitionTable<'_>, label: &str) -> Result<(u32, u32), String> {
    table
        .iter()
        .find(|entry| entry.label_as_str() == label)
        .map(|entry| (entry.offset(), entry.len()))
        .ok_or_else(|| {
            format!("the flash has no partition `{label}`: write it with firmware/partitions.csv")
        })
}

/// A piece of the flash. A copy of it is the same piece.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    flash: &'static RefCell<FlashStorage<'static>>,
    offset: u32,
    length: u32,
}

impl Region {
    /// The address on the chip of `length` bytes from `offset`.
    fn address(&self, offset: u32, length: usize) -> Result<u32, FlashError> {
        let length = u32::try_from(length).map_err(|_| FlashError::OutOfBounds)?;
        let end = offset.checked_add(length).ok_or(FlashError::OutOfBounds)?;
        if end > self.length {
            return Err(FlashError::OutOfBounds);
        }
        Ok(self.offset + offset)
    }
}

/// Why the flash did not do it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlashError {
    NotAligned,
    OutOfBounds,
    Other,
}

impl From<FlashStorageError> for FlashError {
    fn from(error: FlashStorageError) -> Self {
        match error {
            FlashStorageError::NotAligned => Self::NotAligned,
            FlashStorageError::OutOfBounds => Self::OutOfBounds,
            _ => Self::Other,
        }
    }
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::NotAligned => NorFlashErrorKind::NotAligned,
            Self::OutOfBounds => NorFlashErrorKind::OutOfBounds,
            Self::Other => NorFlashErrorKind::Other,
        }
    }
}

impl ErrorType for Region {
    type Error = FlashError;
}

impl ReadNorFlash for Region {
    const READ_SIZE: usize = 4;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        let address = self.address(offset, bytes.len())?;
        Ok(self.flash.borrow_mut().read_nor(address, bytes)?)
    }

    fn capacity(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0)
    }
}

impl NorFlash for Region {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4_096;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let length = to.checked_sub(from).ok_or(FlashError::OutOfBounds)?;
        let length = usize::try_from(length).map_err(|_| FlashError::OutOfBounds)?;
        let address = self.address(from, length)?;
        let end = address + (to - from);
        Ok(self.flash.borrow_mut().erase(address, end)?)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let address = self.address(offset, bytes.len())?;
        Ok(self.flash.borrow_mut().write_nor(address, bytes)?)
    }
}

impl MultiwriteNorFlash for Region {}
