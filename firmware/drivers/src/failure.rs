//! What an I²C error means for a sensor.

use embedded_hal::i2c::{Error, ErrorKind, NoAcknowledgeSource};
use node_core::SensorError;

/// The error of a first transfer: nobody at the address means that nothing is there.
pub(crate) fn address(error: &impl Error) -> SensorError {
    match error.kind() {
        ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address | NoAcknowledgeSource::Unknown) => {
            SensorError::NotPresent
        }
        _ => SensorError::Bus,
    }
}

/// Whether a sensor that is busy would answer like this.
pub(crate) fn is_busy(error: &impl Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address | NoAcknowledgeSource::Unknown)
    )
}
