//! A sensor reading, its JSON and its topic: the only code that the device and the engine share.
//!
//! One MQTT publish to `sensors/<id>/reading` carries one JSON object of at most
//! [`MAX_PAYLOAD_BYTES`] bytes of UTF-8:
//!
//! ```json
//! {"v":1,"id":"C001","boot":"9f3a","seq":1042,"t":1790000000123,"temperature":21.4,"humidity":53.2,"next_s":10}
//! ```
//!
//! | key           | JSON type | unit       | range                    | meaning                                   |
//! |---------------|-----------|------------|--------------------------|-------------------------------------------|
//! | `v`           | integer   |            | 1                        | version of the format; 1 when absent      |
//! | `id`          | string    |            | `[A-Za-z0-9_:-]{1,64}`   | the sensor; **required**                  |
//! | `boot`        | string    |            | `[A-Za-z0-9]{1,8}`       | drawn at each start, so `seq` may restart |
//! | `seq`         | integer   | readings   | 0 to 2^64 − 1            | counts the readings of one boot           |
//! | `t`           | integer   | ms         | −2^63 to 2^63 − 1        | time of measurement since 1970 UTC        |
//! | `temperature` | number    | °C         | finite `f64`             | a quantity                                |
//! | `humidity`    | number    | % relative | finite `f64`             | a quantity                                |
//! | *other name*  | number    | its own    | finite `f64`             | a quantity, when in [`Quantities`]        |
//! | `next_s`      | integer   | s          | 0 to 2^32 − 1            | delay until the next reading              |
//! | `fw`          | string    |            | any                      | firmware version, see [`Start`]           |
//! | `reset`       | string    |            | any                      | why the device started, see [`Start`]     |
//! | `crash`       | string    |            | any                      | last words before that, see [`Start`]     |
//!
//! * `id` and at least one known quantity are required, up to [`MAX_QUANTITIES`] are accepted;
//!   every other key may be absent, and keys come in any order.
//! * A key that is not known is ignored, whatever its value. A known key given twice is refused,
//!   and so is one whose value has another type: `null` is not a way to leave a key out.
//! * `fw`, `reset` and `crash` come with the first reading after a start. They are for people, and
//!   never a reason to refuse the reading: what is longer than [`Start`] keeps is cut, what is no
//!   string counts as absent, and the last one of several counts.
//! * An integer has neither fraction nor exponent: `10`, not `10.0` nor `1e1`.
//! * `NaN`, infinities and numbers beyond the range of `f64` (`1e309`) are refused.
//! * Whether a time or a value is plausible is judged by the engine, not here.
//!
//! [`encode`] writes the keys in the order of the example, quantities in the order of their
//! [`QuantityId`], and each value with the fewest digits that read back as the same bits.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod decode;
mod encode;
#[cfg(test)]
mod fuzz;
mod id;
pub mod node;
mod plain;
mod quantity;
mod reading;
mod start;
pub mod topic;

pub use decode::{DecodeError, decode};
pub use encode::encode;
pub use id::{BootId, BootIdError, SensorId, SensorIdError};
pub use quantity::{HUMIDITY, Quantities, QuantityId, QuantityNameError, TEMPERATURE};
pub use reading::{Reading, Values};
pub use start::Start;

/// The most quantities that one reading may carry.
pub const MAX_QUANTITIES: usize = 16;

/// The most bytes in a [`SensorId`].
pub const MAX_SENSOR_ID: usize = 64;

/// The most bytes in one payload.
pub const MAX_PAYLOAD_BYTES: usize = 8192;

/// The only version of the format so far.
const VERSION: u64 = 1;
