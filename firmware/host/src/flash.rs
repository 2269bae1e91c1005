//! The emulated flash in a file: every write goes through, so that a process that is killed leaves
//! what a chip without power would.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashErrorKind, ReadNorFlash,
};
use node_core::emulated::{EmulatedFlash, FlashError, PAGE};

/// Flash in memory, and in a file if it has one.
#[derive(Debug)]
pub(crate) struct FileFlash {
    memory: EmulatedFlash,
    file: Option<File>,
}

impl FileFlash {
    /// Gone with the process.
    pub(crate) fn in_memory(pages: usize) -> Self {
        Self {
            memory: EmulatedFlash::erased(pages),
            file: None,
        }
    }

    /// In this file, which is erased flash if it is new.
    pub(crate) fn open(path: &Path, pages: usize) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        bytes.resize(pages * PAGE, 0xff);
        file.write_all_at(&bytes, 0)?;
        Ok(Self {
            memory: EmulatedFlash::with(bytes),
            file: Some(file),
        })
    }

    /// Brings the file up to memory.
    fn store(&self, from: u32, length: usize) -> Result<(), FlashError> {
        let failed = FlashError::Address(NorFlashErrorKind::Other);
        let Some(file) = &self.file else {
            return Ok(());
        };
        let start = usize::try_from(from).map_err(|_| failed)?;
        let bytes = self.memory.bytes().get(start..start + length);
        let stored = file.write_all_at(bytes.unwrap_or_default(), from.into());
        stored.map_err(|_| failed)
    }
}

impl ErrorType for FileFlash {
    type Error = FlashError;
}

impl ReadNorFlash for FileFlash {
    const READ_SIZE: usize = EmulatedFlash::READ_SIZE;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.memory.read(offset, bytes).await
    }

    fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}

impl NorFlash for FileFlash {
    const WRITE_SIZE: usize = EmulatedFlash::WRITE_SIZE;
    const ERASE_SIZE: usize = EmulatedFlash::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.memory.erase(from, to).await?;
        self.store(from, usize::try_from(to - from).unwrap_or(0))
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.memory.write(offset, bytes).await?;
        self.store(offset, bytes.len())
    }
}

impl MultiwriteNorFlash for FileFlash {}
