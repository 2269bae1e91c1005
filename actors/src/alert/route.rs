//! Which notices go by which channel. Pure.

use crate::group::Selection;
use crate::score::incident::{Incident, Notice};
use crate::score::rules::Severity;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// They know what they did themselves, and hear once of what belongs together.
    People,
    /// What was begun has to be ended.
    Program,
}

/// What one channel gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name, which its rows in the outbox carry.
    pub channel: String,
    /// Incidents that have become so bad at least.
    pub least: Severity,
    /// Incidents of these sensors; those of the link to the broker concern everybody.
    pub whose: Selection,
    /// Who reads it.
    pub reader: Reader,
}

impl Route {
    /// Everything that people hear.
    pub fn all(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            least: Severity::Warn,
            whose: Selection::default(),
            reader: Reader::People,
        }
    }

    /// Whether the channel gets this notice.
    pub fn takes(&self, notice: &Notice) -> bool {
        (!notice.is_quiet || self.reader == Reader::Program) && self.is_told(&notice.incident)
    }

    /// Whether the channel is told of this incident, as bad as it is.
    pub fn is_told(&self, incident: &Incident) -> bool {
        let group = incident.group.as_deref();
        let mut sensors = incident.sensors().peekable();
        incident.severity >= self.least
            && (sensors.peek().is_none() || sensors.any(|sensor| self.whose.has(sensor, group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::text::tests::notice;
    use crate::score::incident::{Kind, NoticeKind};

    #[test]
    fn by_severity_sensor_and_group() {
        let mut critical = notice(NoticeKind::Opened);
        critical.incident.group = Some("hall".to_owned());
        let mut warning = critical.clone();
        warning.incident.severity = Severity::Warn;
        let mut link = critical.clone();
        (link.incident.kind, link.incident.sensor) = (Kind::Link, None);
        let route = |least, sensors: &[&str], groups: &[&str]| {
            let text = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            Route {
                channel: "x".to_owned(),
                least,
                whose: Selection::new(&text(sensors), &text(groups)),
                reader: Reader::Program,
            }
        };
        for (route, takes) in [
            (Route::all("x"), [true, true, true]),
            (route(Severity::Critical, &[], &[]), [true, false, true]),
            (route(Severity::Warn, &["C*"], &[]), [true, true, true]),
            (route(Severity::Warn, &["D*"], &[]), [false, false, true]),
            (
                route(Severity::Warn, &["D*"], &["hall"]),
                [true, true, true],
            ),
        ] {
            let got = [&critical, &warning, &link].map(|notice| route.takes(notice));
            assert_eq!(got, takes, "{route:?}");
        }
        critical.is_quiet = true;
        assert!(!Route::all("x").takes(&critical));
        assert!(route(Severity::Warn, &[], &[]).takes(&critical));
    }
}
