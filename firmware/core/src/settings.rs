//! What can be changed at the console without writing a new config partition.
//!
//! The changes are kept beside the config, with the checksum of the config they were made on: a new
//! config partition makes them void.

use alloc::format;
use alloc::string::{String, ToString as _};

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use vigie_wire::node::{Config, Wifi, crc32};

use crate::OpenError;
use crate::facts::{Facts, MAX_SETTING};

/// A key of `set`. Its position is what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Ssid,
    WifiPassword,
    Host,
    Port,
    User,
    Password,
    Interval,
}

impl Key {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ssid,
        Self::WifiPassword,
        Self::Host,
        Self::Port,
        Self::User,
        Self::Password,
        Self::Interval,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ssid => "wifi.ssid",
            Self::WifiPassword => "wifi.password",
            Self::Host => "broker.host",
            Self::Port => "broker.port",
            Self::User => "broker.user",
            Self::Password => "broker.password",
            Self::Interval => "interval_ms",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// Changes the config.
    ///
    /// # Errors
    ///
    /// What is wrong with the value, in words.
    pub(crate) fn apply(self, value: &str, config: &mut Config) -> Result<(), String> {
        if value.is_empty() || value.len() > MAX_SETTING {
            return Err(format!("{} takes 1 to {MAX_SETTING} bytes", self.name()));
        }
        let text = value.to_string();
        match self {
            Self::Ssid if value.len() > 32 => {
                return Err("a network's name has at most 32 bytes".into());
            }
            Self::Ssid => first_wifi(config).ssid = text,
            Self::WifiPassword if !(8..=64).contains(&value.len()) => {
                return Err("a Wi-Fi password has 8 to 64 bytes".into());
            }
            Self::WifiPassword => first_wifi(config).password = text,
            Self::Host => config.broker.host = text,
            Self::Port => match value.parse() {
                Ok(port) if port > 0 => config.broker.port = port,
                _ => return Err("a port is a number from 1 to 65535".into()),
            },
            Self::User => config.broker.user = Some(text),
            Self::Password => config.broker.password = Some(text),
            Self::Interval => match value.parse() {
                Ok(ms) if (100..=86_400_000).contains(&ms) => config.interval_ms = ms,
                _ => return Err("an interval is 100 to 86400000 ms".into()),
            },
        }
        Ok(())
    }
}

fn first_wifi(config: &mut Config) -> &mut Wifi {
    if config.wifi.is_empty() {
        config.wifi.push(Wifi {
            ssid: String::new(),
            password: String::new(),
        });
    }
    // Not empty any more.
    &mut config.wifi[0]
}

/// The config with what was changed at the console. The glue calls it before it joins Wi-Fi; then
/// it gives the same flash to [`Parts::facts_flash`](crate::Parts::facts_flash).
///
/// # Errors
///
/// When the flash cannot be used at all.
pub async fn with_changes<F: MultiwriteNorFlash>(
    config: Config,
    facts_flash: F,
) -> Result<Config, OpenError> {
    Ok(changed(&config, &mut Facts::open(facts_flash).await?).await)
}

/// The checksum that names a config.
pub(crate) fn fingerprint(config: &Config) -> u32 {
    config.encode().map_or(0, |bytes| crc32(&bytes))
}

pub(crate) async fn changed<F: MultiwriteNorFlash>(
    config: &Config,
    facts: &mut Facts<F>,
) -> Config {
    let of = fingerprint(config);
    let mut changed = config.clone();
    for (number, key) in (0..).zip(Key::ALL) {
        if let Some(value) = facts.setting(number, of).await {
            // It was checked when it was set.
            let _checked = key.apply(&value, &mut changed);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use embassy_futures::block_on;

    use super::*;
    use crate::emulated::EmulatedFlash;
    use crate::testing::config;

    #[test]
    fn a_change_lasts_until_another_config_is_written() {
        let config = config();
        let mut flash = EmulatedFlash::erased(2);
        let mut facts = block_on(Facts::open(&mut flash)).unwrap();
        let number = |wanted| Key::ALL.iter().position(|key| *key == wanted).unwrap();
        let mut set = |key, value| {
            let number = u8::try_from(number(key)).unwrap();
            assert!(block_on(facts.set_setting(
                number,
                fingerprint(&config),
                value
            )));
        };
        set(Key::Port, "1884");
        set(Key::WifiPassword, "two words");
        set(Key::Port, "1885");
        let changed = block_on(with_changes(config.clone(), &mut flash)).unwrap();
        assert_eq!(changed.broker.port, 1885);
        assert_eq!(changed.wifi[0].password, "two words");

        let mut other = config.clone();
        other.interval_ms += 1;
        assert_eq!(block_on(with_changes(other.clone(), &mut flash)), Ok(other));
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        for (key, value) in [
            (Key::Port, "0"),
            (Key::Port, "70000"),
            (Key::Interval, "fast"),
            (Key::WifiPassword, "short"),
            (Key::Host, ""),
        ] {
            let mut tried = config();
            assert!(key.apply(value, &mut tried).is_err(), "{value:?}");
            assert_eq!(tried, config());
        }
    }
}
