//! An incident for programs: the JSON of the API and of webhooks. Pure.

use serde::Serialize;

use std::ops::Deref;

use vigie_wire::SensorId;

use super::text::Voice;
use crate::quantity::Catalogue;
use crate::score::incident::{Incident, Mark};

/// Who did something to an incident, and when.
#[derive(Debug, Serialize)]
pub struct Done<'a> {
    /// Milliseconds since 1970 UTC.
    at: i64,
    by: &'a str,
}

/// An incident; times are milliseconds since 1970 UTC.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    id: String,
    kind: &'static str,
    /// The first one; null of a link.
    sensor: Option<&'a str>,
    group: Option<&'a str>,
    /// Everybody concerned, if it is about sensors of a group.
    sensors: Vec<&'a str>,
    opened: i64,
    resolved: Option<i64>,
    severity: &'static str,
    /// What explains it best.
    rule: &'static str,
    quantity: Option<&'a str>,
    anomalies: u32,
    text: String,
    /// What else fired with the first rule, which comes first unless it is the explanation.
    also: Vec<String>,
    relapses: u32,
    notices: u32,
    acknowledged: Option<Done<'a>>,
    false_alarm: Option<Done<'a>>,
}

impl<'a> Report<'a> {
    /// As it is now, in the words of `voice`.
    pub fn of<C: Deref<Target = Catalogue>>(incident: &'a Incident, voice: &'a Voice<C>) -> Self {
        let done = |mark: &'a Mark| Done {
            at: mark.at_ms,
            by: &mark.by,
        };
        let members = incident.members.iter();
        let best = incident.explanation();
        let quantity = best.quantity.and_then(|id| voice.catalogue.get(id));
        Self {
            id: incident.id(),
            kind: incident.kind.name(),
            sensor: incident.sensor.as_ref().map(SensorId::as_str),
            group: incident.group.as_deref(),
            sensors: members.map(|member| member.sensor.as_str()).collect(),
            opened: incident.opened_ms,
            resolved: incident.resolved_ms,
            severity: incident.severity.name(),
            rule: best.rule.name(),
            quantity: quantity.map(|spec| spec.name.as_str()),
            anomalies: incident.anomalies,
            text: voice.what(incident, best),
            also: incident.others().map(|one| voice.sentence(one)).collect(),
            relapses: incident.relapses,
            notices: incident.notices,
            acknowledged: incident.acknowledged.as_ref().map(done),
            false_alarm: incident.false_alarm.as_ref().map(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::alert::text::tests::notice;
    use crate::score::incident::NoticeKind;

    #[test]
    fn an_incident_has_the_name_that_its_mail_gives_it() {
        let voice = Voice::english(Arc::<Catalogue>::default());
        let mut incident = notice(NoticeKind::Reminder).incident;
        let jump = "temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)";
        let noise = voice.sentence(&incident.also[0]);
        let told = |incident: &Incident| {
            let report = serde_json::to_value(Report::of(incident, &voice)).unwrap();
            let also = report["also"].as_array().unwrap().clone();
            assert_eq!(report["quantity"], "temperature");
            (report["rule"].clone(), report["text"].clone(), also)
        };
        assert_eq!(
            told(&incident),
            ("rate".into(), jump.into(), vec![noise.clone().into()])
        );
        // Found later than the jump, which was only its beginning.
        incident.also[0].since_ms += 60_000;
        assert_eq!(
            told(&incident),
            ("noise".into(), noise.into(), vec![jump.into()])
        );
    }
}
