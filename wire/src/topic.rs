//! Where a device publishes: `sensors/<id>/reading` and `sensors/<id>/status`.

use alloc::string::String;

use crate::SensorId;

/// What is published under a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Readings, one JSON object per message.
    Reading,
    /// Whether the device is there: retained, and the will of its connection.
    Status,
}

impl Kind {
    /// The last level of the topic.
    const fn level(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Status => "status",
        }
    }
}

/// `sensors/<id>/reading`.
pub fn reading(sensor: &SensorId) -> String {
    topic(sensor, Kind::Reading)
}

/// `sensors/<id>/status`.
pub fn status(sensor: &SensorId) -> String {
    topic(sensor, Kind::Status)
}

/// Whose topic this is, and of what kind; nothing when it is not one of those above.
pub fn parse(topic: &str) -> Option<(SensorId, Kind)> {
    // An id holds no `/`, so the last one ends it and a deeper topic fails as an id.
    let (sensor, level) = topic.strip_prefix("sensors/")?.rsplit_once('/')?;
    let kind = [Kind::Reading, Kind::Status]
        .into_iter()
        .find(|kind| kind.level() == level)?;
    Some((SensorId::try_from(sensor).ok()?, kind))
}

fn topic(sensor: &SensorId, kind: Kind) -> String {
    ["sensors/", sensor.as_str(), "/", kind.level()].concat()
}
