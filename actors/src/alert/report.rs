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
    rule: &'static str,
    quantity: Option<&'a str>,
    anomalies: u32,
    text: String,
    /// The next two rules that fired with the first.
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
        let quantity = incident.first.quantity;
        let quantity = quantity.and_then(|id| voice.catalogue.get(id));
        let also = incident.also.iter();
        Self {
            id: incident.id(),
            kind: incident.kind.name(),
            sensor: incident.sensor.as_ref().map(SensorId::as_str),
            group: incident.group.as_deref(),
            sensors: members.map(|member| member.sensor.as_str()).collect(),
            opened: incident.opened_ms,
            resolved: incident.resolved_ms,
            severity: incident.severity.name(),
            rule: incident.first.rule.name(),
            quantity: quantity.map(|spec| spec.name.as_str()),
            anomalies: incident.anomalies,
            text: voice.what(incident, &incident.first),
            also: also.map(|verdict| voice.sentence(verdict)).collect(),
            relapses: incident.relapses,
            notices: incident.notices,
            acknowledged: incident.acknowledged.as_ref().map(done),
            false_alarm: incident.false_alarm.as_ref().map(done),
        }
    }
}
