//! The config of a node, as it lies in a partition of its flash.
//!
//! ```text
//! offset  bytes  little endian
//!      0      4  magic "VIGN"
//!      4      2  version of the format, 1
//!      6      2  0
//!      8      4  length of the body
//!     12      4  CRC-32 (IEEE) of the body
//!     16      …  body: the JSON of [`Config`], UTF-8
//! ```
//!
//! What follows the body is ignored: erased flash is `0xff`. The body is JSON because the firmware
//! has a JSON reader already, and because a key that a later version adds is no reason to refuse.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::SensorId;

/// The most bytes of a partition, header and all: what the partition table has for it.
pub const MAX_BYTES: usize = 16 * 1024;

/// The most sensors of one node. With a battery, which goes by the node's own id, there are as many
/// ids and one more.
pub const MAX_SENSORS: usize = 8;

#[cfg(feature = "file")]
pub mod file;

const MAGIC: [u8; 4] = *b"VIGN";
const VERSION: u16 = 1;
const HEADER: usize = 16;

/// Everything that a node is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The id of its readings and of its status.
    pub id: SensorId,
    /// The pin map: a name that the firmware knows (`esp32c3-devkitm-1`); empty on a PC.
    #[serde(default)]
    pub board: String,
    /// ms between two readings.
    pub interval_ms: u32,
    /// What it does in between.
    #[serde(default)]
    pub sleep: Sleep,
    /// Wi-Fi networks, tried in this order.
    #[serde(default)]
    pub wifi: Vec<Wifi>,
    /// Where readings go.
    pub broker: Broker,
    /// Time servers, tried in this order.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// The sensors, [`MAX_SENSORS`] at most. Those with the same id make one reading.
    pub sensors: Vec<Sensor>,
    /// How the battery's voltage is measured.
    #[serde(default)]
    pub battery: Option<Battery>,
}

/// What a node does between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sleep {
    /// It stays connected.
    #[default]
    None,
    /// Deep sleep: it restarts for each reading. For batteries.
    Deep,
}

/// A Wi-Fi network.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// Its password; empty for an open network.
    #[serde(default)]
    pub password: String,
}

/// An MQTT broker, or the engine's listener.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS with the authorities of `ca`.
    pub tls: bool,
    /// User name, if the broker wants one.
    #[serde(default)]
    pub user: Option<String>,
    /// Password.
    #[serde(default)]
    pub password: Option<String>,
    /// PEM text of the authorities that are trusted.
    #[serde(default)]
    pub ca: String,
}

/// A sensor and where it is wired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sensor {
    /// Its id, if it is not the node's.
    #[serde(default)]
    pub id: Option<SensorId>,
    /// Which chip.
    pub kind: Kind,
    /// I²C bus of the pin map.
    #[serde(default)]
    pub bus: u8,
    /// I²C address, if it is not the usual one.
    #[serde(default)]
    pub address: Option<u8>,
    /// GPIO number, for sensors with a wire of their own.
    #[serde(default)]
    pub pin: Option<u8>,
    /// A file with readings, for `recorded`.
    #[serde(default)]
    pub file: Option<String>,
}

/// What kind of sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// SHT30, SHT31, SHT35: I²C, 0x44 or 0x45.
    Sht3x,
    /// SHT40, SHT41, SHT45: I²C, 0x44 to 0x46.
    Sht4x,
    /// BME280: I²C, 0x76 or 0x77; pressure as well.
    Bme280,
    /// DHT22, AM2302: one wire.
    Dht22,
    /// Made up: a day's cycle and noise. On a PC.
    Generated,
    /// Out of a CSV file. On a PC.
    Recorded,
}

/// A battery behind a divider at an ADC pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Battery {
    /// GPIO number.
    pub pin: u8,
    /// Battery voltage divided by pin voltage, in thousandths: 2000 for two equal resistors.
    pub divider_milli: u32,
}

/// Why bytes are not a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// They do not begin with the magic: nothing was written here, or something else.
    NoConfig,
    /// Another version of the format.
    Version(u16),
    /// The length is beyond the bytes.
    Length(u32),
    /// The checksum differs: part of it is damaged.
    Checksum,
    /// The body is not the JSON of a config.
    Body,
    /// What would be written is longer than [`MAX_BYTES`].
    TooLong(usize),
    /// So many sensors are more than [`MAX_SENSORS`].
    Sensors(usize),
}

impl Config {
    /// The bytes of the partition.
    ///
    /// # Errors
    ///
    /// When they would be more than [`MAX_BYTES`], or the sensors more than [`MAX_SENSORS`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check_sensors()?;
        let body = serde_json::to_vec(self).map_err(|_| Error::Body)?;
        let total = HEADER + body.len();
        let length = u32::try_from(body.len()).map_err(|_| Error::TooLong(total))?;
        if total > MAX_BYTES {
            return Err(Error::TooLong(total));
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// The config in the bytes of a partition. No bytes make it panic.
    ///
    /// # Errors
    ///
    /// When there is none, when it is damaged, or when it has more than [`MAX_SENSORS`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Error::NoConfig)?;
        let [m0, m1, m2, m3, v0, v1, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Error::NoConfig);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let body = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(..length))
            .ok_or(Error::Length(length))?;
        if crc32(body) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(Error::Checksum);
        }
        let config: Self = serde_json::from_slice(body).map_err(|_| Error::Body)?;
        config.check_sensors()?;
        Ok(config)
    }

    fn check_sensors(&self) -> Result<(), Error> {
        match self.sensors.len() {
            0..=MAX_SENSORS => Ok(()),
            more => Err(Error::Sensors(more)),
        }
    }

    /// The id under which a sensor's values go out.
    pub fn id_of(&self, sensor: &Sensor) -> SensorId {
        sensor.id.unwrap_or(self.id)
    }
}

// Passwords are not shown, whatever prints these.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("id", &self.id)
            .field("interval_ms", &self.interval_ms)
            .field("wifi", &self.wifi)
            .field("broker", &self.broker)
            .field("sensors", &self.sensors)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Wifi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wifi")
            .field("ssid", &self.ssid)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConfig => f.write_str("no config of a node here"),
            Self::Version(found) => {
                write!(f, "the config has format {found}, known is {VERSION}")
            }
            Self::Length(length) => {
                write!(
                    f,
                    "the config says it has {length} bytes, which are not there"
                )
            }
            Self::Checksum => f.write_str("the config is damaged: its checksum is wrong"),
            Self::Body => f.write_str("the config's body cannot be read"),
            Self::TooLong(len) => {
                write!(
                    f,
                    "the config has {len} bytes, the partition has {MAX_BYTES}"
                )
            }
            Self::Sensors(count) => {
                write!(
                    f,
                    "the config has {count} sensors, a node has {MAX_SENSORS} at most"
                )
            }
        }
    }
}

impl core::error::Error for Error {}

/// CRC-32 as in Ethernet, zlib and PNG. Bit by bit: it runs once per start.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
