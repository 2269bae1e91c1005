//! What a sensor's device tells of itself: when and why it started last, and with which firmware.

use serde::{Deserialize, Serialize};
use vigie_wire::Start;

use crate::reading::Reading;

/// A device whose start was seen, or that told of one. Times are order times of readings, ms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The first reading since its last start; `None` if no start was seen, only told.
    pub started_ms: Option<i64>,
    /// Starts that were seen.
    pub starts: u32,
    /// What it told of the last one.
    pub told: Start,
    /// The last change of its firmware.
    pub changed: Option<Change>,
}

/// Another firmware than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The first reading with the new one.
    pub at_ms: i64,
    /// The version before.
    pub from: String,
}

impl Device {
    /// Takes in what `reading` tells. `restarted`: it is the first of another boot than before. True
    /// if there is news.
    pub fn learn(known: &mut Option<Box<Self>>, reading: &Reading, restarted: bool) -> bool {
        if !restarted && reading.start.is_none() {
            return false;
        }
        let device = known.get_or_insert_default();
        if restarted {
            device.started_ms = Some(reading.order_ms);
            device.starts = device.starts.saturating_add(1);
            (device.told.reset, device.told.crash) = (None, None);
        }
        let Some(start) = reading.start.as_deref() else {
            return restarted;
        };
        let told = &mut device.told;
        if let (Some(before), Some(after)) = (&told.firmware, &start.firmware)
            && before != after
        {
            device.changed = Some(Change {
                at_ms: reading.order_ms,
                from: before.clone(),
            });
        }
        // Some tell it with each reading.
        let firmware = renew(&mut told.firmware, start.firmware.as_ref());
        let reset = renew(&mut told.reset, start.reset.as_ref());
        let crash = renew(&mut told.crash, start.crash.as_ref());
        restarted || firmware || reset || crash
    }
}

/// Takes over what is told, if anything is. True if it is news.
fn renew(known: &mut Option<String>, told: Option<&String>) -> bool {
    let news = told.filter(|told| known.as_ref() != Some(told));
    if let Some(told) = news {
        *known = Some(told.clone());
    }
    news.is_some()
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::reading::Identity;

    fn reading(at_ms: i64, start: Option<(&str, &str)>) -> Reading {
        Reading {
            sensor: "C001".try_into().unwrap(),
            device_ms: Some(at_ms),
            received_ms: at_ms,
            order_ms: at_ms,
            identity: Identity::Sequence {
                boot: "a".try_into().unwrap(),
                seq: 0,
            },
            next_s: None,
            start: start.map(|(firmware, reset)| {
                Box::new(Start {
                    firmware: Some(firmware.to_owned()),
                    reset: Some(reset.to_owned()),
                    crash: None,
                })
            }),
            values: SmallVec::new(),
        }
    }

    #[test]
    fn starts_and_changes_of_firmware_are_kept() {
        let mut device = None;
        assert!(!Device::learn(&mut device, &reading(1, None), false));
        assert!(device.is_none(), "most devices need no room");

        let first = reading(2, Some(("1.3", "power_on")));
        assert!(Device::learn(&mut device, &first, false));
        assert!(!Device::learn(&mut device, &first, false), "no news");
        let known = device.clone().unwrap();
        assert_eq!((known.started_ms, known.starts), (None, 0));
        assert_eq!(known.told.reset.as_deref(), Some("power_on"));

        let second = reading(3, Some(("1.4", "software")));
        assert!(Device::learn(&mut device, &second, true));
        let known = device.clone().unwrap();
        assert_eq!((known.started_ms, known.starts), (Some(3), 1));
        let changed = known.changed.unwrap();
        assert_eq!((changed.at_ms, changed.from.as_str()), (3, "1.3"));

        assert!(Device::learn(&mut device, &reading(4, None), true));
        let known = device.unwrap();
        assert_eq!((known.started_ms, known.starts), (Some(4), 2));
        assert_eq!(known.told.firmware.as_deref(), Some("1.4"));
        assert_eq!(known.told.reset, None, "nothing was told of this one");
    }
}
