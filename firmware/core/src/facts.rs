//! The few facts that outlive a boot: the time floor and settings changed at the console. Two pages
//! or more of flash, as the map of `sequential-storage`: a value is replaced by appending. What a
//! power cut leaves is mended as for the queue (`mend.rs`), and is the old or the new value. That is
//! shown for a cut after which facts were written again. Of 20,000 cuts in a row without that, each
//! in the middle of writing here, 157 took a setting along and 106 the newest time floor. Then the
//! setting of the partition counts, and the floor is an older one or that of the firmware.

use alloc::string::String;
use alloc::vec::Vec;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapStorage};

use crate::OpenError;
use crate::mend::{buffer_bytes, mend};

/// The time floor, in ms since 1970.
const FLOOR: u8 = 1;
/// Behind it, one key per setting.
const SETTINGS: u8 = 16;

/// The most bytes of a setting.
pub(crate) const MAX_SETTING: usize = 128;

pub(crate) struct Facts<F: MultiwriteNorFlash> {
    map: MapStorage<u8, F, Cache<Uncached, Uncached, Uncached, u8>>,
    buffer: Vec<u8>,
}

impl<F: MultiwriteNorFlash> Facts<F> {
    pub(crate) async fn open(flash: F) -> Result<Self, OpenError> {
        let whole = flash.capacity() / F::ERASE_SIZE * F::ERASE_SIZE;
        let end = u32::try_from(whole).map_err(|_| OpenError::Flash)?;
        let config = MapConfig::try_new(0..end).map_err(|_| OpenError::Flash)?;
        let mut facts = Self {
            map: MapStorage::new(flash, config, Cache::new_uncached()),
            buffer: alloc::vec![0; buffer_bytes::<F>()],
        };
        // If the flash does not take it, reading fails as well.
        let _mended = mend(facts.map.flash(), &mut facts.buffer).await;
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

#[cfg(test)]
mod tests {
    use embassy_futures::block_on;

    use super::*;
    use crate::emulated::EmulatedFlash;

    fn open(flash: &mut EmulatedFlash) -> Facts<&mut EmulatedFlash> {
        block_on(Facts::open(flash)).unwrap()
    }

    /// A cut costs nothing, if all is written again before the next one.
    #[test]
    fn after_a_power_cut_a_fact_is_the_old_or_the_new_one() {
        let cuts = std::env::var("VIGIE_POWER_CUTS").map_or(500, |text| text.parse().unwrap());
        let seed = std::env::var("VIGIE_POWER_SEED").map_or(1, |text| text.parse().unwrap());
        let mut chance = u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        let mut flash = EmulatedFlash::erased(2);
        let mut floor = 1;
        for cut in 0..cuts {
            let mut facts = open(&mut flash);
            assert!(block_on(facts.set_floor_ms(floor)), "cut {cut}");
            assert!(block_on(facts.set_setting(0, 1, "kept")), "cut {cut}");
            drop(facts);

            let most_bytes = [30, 300, 6_000][usize::try_from(next(3)).unwrap()];
            flash.cut_after(1 + next(most_bytes), next(u64::MAX));
            let mut facts = open(&mut flash);
            while block_on(facts.set_floor_ms(floor + 1)) {
                floor += 1;
            }
            drop(facts);
            flash.power_on();

            let mut facts = open(&mut flash);
            let found = block_on(facts.floor_ms());
            assert!(found == floor || found == floor + 1, "cut {cut}: {found}");
            let setting = block_on(facts.setting(0, 1));
            assert_eq!(setting.as_deref(), Some("kept"), "cut {cut}");
            floor += 1;
        }
    }
}
