//! What a device measured, at one moment.

use alloc::boxed::Box;

use smallvec::SmallVec;

use crate::{BootId, QuantityId, SensorId, Start};

/// What was measured: sorted by id, no id twice, every number finite.
///
/// Two are held inline, which is every reading of the builtin quantities.
pub type Values = SmallVec<[(QuantityId, f64); 2]>;

/// One reading. The table of the [crate] gives the meaning and the unit of each field.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Key `id`.
    pub sensor: SensorId,
    /// Key `boot`.
    pub boot: Option<BootId>,
    /// Key `seq`.
    pub seq: Option<u64>,
    /// Key `t`: ms since 1970 UTC, as the device's clock had it.
    pub time_ms: Option<i64>,
    /// Key `next_s`: s until the next reading.
    pub next_s: Option<u32>,
    /// Keys `fw`, `reset`, `crash`: told with the first reading after a start.
    pub start: Option<Box<Start>>,
    /// The quantities.
    pub values: Values,
}

impl Reading {
    /// The value of one quantity.
    pub fn value(&self, id: QuantityId) -> Option<f64> {
        self.values
            .iter()
            .find(|(held, _)| *held == id)
            .map(|&(_, value)| value)
    }
}
