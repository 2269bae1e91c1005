//! The few facts that outlive a boot: the time floor and settings changed at the console. Two pages
//! or more of flash, as the map of `sequential-storage`: a value is replaced by appending, a power
//! cut leaves the old or the new one.

use alloc::string::String;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapStorage};

use crate::OpenError;

/// The time floor, in ms since 1970.
const FLOOR: u8 = 1;
/// Behind it, one key per setting.
const SETTINGS: u8 = 16;

/// The most bytes of a setting.
pub(crate) const MAX_SETTING: usize = 128;

pub(crate) struct Facts<F: MultiwriteNorFlash> {
    map: MapStorage<u8, F, Cache<Uncached, Uncached, Uncached, u8>>,
    buffer: [u8; 256],
}

impl<F: MultiwriteNorFlash> Facts<F> {
    pub(crate) async fn open(flash: F) -> Result<Self, OpenError> {
        let whole = flash.capacity() / F::ERASE_SIZE * F::ERASE_SIZE;
        let end = u32::try_from(whole).map_err(|_| OpenError::Flash)?;
        let config = MapConfig::try_new(0..end).map_err(|_| OpenError::Flash)?;
        let mut facts = Self {
            map: MapStorage::new(flash, config, Cache::new_uncached()),
            buffer: [0; 256],
        };
        let read = facts.map.fetch_item::<i64>(&mut facts.buffer, &FLOOR).await;
        if read.is_err() {
            // Not readable at all: better without than dead.
            let _still_broken = facts.map.erase_all().await;
        }
        Ok(facts)
    }

    pub(crate) async fn floor_ms(&mut self) -> i64 {
        let read = self.map.fetch_item::<i64>(&mut self.buffer, &FLOOR).await;
        read.ok().flatten().unwrap_or(0)
    }

    /// False: the flash did not take it.
    pub(crate) async fn set_floor_ms(&mut self, floor_ms: i64) -> bool {
        let stored = self.map.store_item(&mut self.buffer, &FLOOR, &floor_ms);
        stored.await.is_ok()
    }

    /// The setting with this number, if it was made on this config.
    pub(crate) async fn setting(&mut self, number: u8, config: u32) -> Option<String> {
        let key = SETTINGS.checked_add(number)?;
        let read = self.map.fetch_item::<&[u8]>(&mut self.buffer, &key).await;
        let (of, text) = read.ok()??.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*of) != config {
            return None;
        }
        str::from_utf8(text).ok().map(String::from)
    }

    /// Keeps a setting made on this config. False: the flash did not take it.
    pub(crate) async fn set_setting(&mut self, number: u8, config: u32, text: &str) -> bool {
        let mut bytes = [0; 4 + MAX_SETTING];
        let length = 4 + text.len();
        let (Some(key), Some(value)) = (SETTINGS.checked_add(number), bytes.get_mut(..length))
        else {
            return false;
        };
        let (of, rest) = value.split_at_mut(4);
        of.copy_from_slice(&config.to_le_bytes());
        rest.copy_from_slice(text.as_bytes());
        let value: &[u8] = value;
        self.map
            .store_item(&mut self.buffer, &key, &value)
            .await
            .is_ok()
    }
}
