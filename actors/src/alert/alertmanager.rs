//! Incidents to Prometheus' Alertmanager, by its API v2 (`POST /api/v2/alerts`): it groups, routes
//! and silences as it does with other alerts. It forgets what it is not told again, so open
//! incidents are told again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::text::Voice;
use super::{Channel, Undelivered, Why};
use crate::clock::{Clock, rfc3339};
use crate::score::incident::{Incident, Notice, NoticeKind};
use crate::score::rules::Severity;

/// An open incident ends by itself after this long without a word: the engine may be away for a
/// while.
const ENDS_AFTER_MS: i64 = 3_600_000;
/// How often open incidents are told again.
const AGAIN: Duration = Duration::from_mins(1);

/// Incidents that are open and have been told.
pub type Open = Box<dyn Fn() -> Vec<Incident> + Send>;

/// Posts incidents as alerts.
pub struct Alertmanager {
    name: String,
    endpoint: Endpoint,
    voice: Voice,
    clock: Arc<dyn Clock>,
    open: Open,
    /// When open incidents are told again.
    next: Instant,
}

impl std::fmt::Debug for Alertmanager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alertmanager")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// See the `OpenAPI` description of Alertmanager's API v2, `postableAlert`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
}

impl Alertmanager {
    /// `endpoint` is that of `/api/v2/alerts`; `open` gives the incidents to be told again.
    pub fn new(
        name: String,
        endpoint: Endpoint,
        voice: Voice,
        clock: Arc<dyn Clock>,
        open: Open,
    ) -> Self {
        Self {
            name,
            endpoint,
            voice,
            clock,
            open,
            next: Instant::now(),
        }
    }

    /// An alert is known by its labels, so they stay the same; but for the severity.
    fn alert(&self, incident: &Incident, severity: Severity, ends_ms: i64) -> Alert {
        let mut labels = BTreeMap::from([
            ("alertname", "VigieIncident".to_owned()),
            ("incident", incident.id()),
            ("kind", incident.kind.name().to_owned()),
            ("rule", incident.first.rule.name().to_owned()),
            ("severity", severity.name().to_owned()),
        ]);
        labels.extend(incident.sensor.map(|sensor| ("sensor", sensor.to_string())));
        labels.extend(incident.group.clone().map(|group| ("group", group)));
        let quantity = incident.first.quantity;
        let quantity = quantity.and_then(|id| self.voice.catalogue.get(id));
        labels.extend(quantity.map(|spec| ("quantity", spec.name.clone())));
        let annotations = BTreeMap::from([
            ("summary", self.voice.about(incident)),
            ("description", self.voice.what(incident, &incident.first)),
        ]);
        Alert {
            labels,
            annotations,
            starts_at: rfc3339(incident.opened_ms),
            ends_at: rfc3339(ends_ms),
        }
    }

    fn of(&self, incident: &Incident, now_ms: i64) -> Alert {
        let ends_ms = incident.resolved_ms.unwrap_or(now_ms + ENDS_AFTER_MS);
        self.alert(incident, incident.severity, ends_ms)
    }

    fn post(&self, alerts: &[Alert]) -> Result<(), Undelivered> {
        let json = serde_json::to_vec(alerts).map_err(|error| Undelivered {
            why: Why::Undeliverable,
            what: "cannot write alerts as JSON".to_owned(),
            source: Some(error.into()),
        })?;
        self.endpoint.post(&json, &[])
    }
}

impl Channel for Alertmanager {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver(&mut self, notices: &[Notice], _used: u32) -> Result<(), Undelivered> {
        let now_ms = self.clock.now_ms();
        let mut alerts = Vec::new();
        for notice in notices {
            let incident = &notice.incident;
            alerts.push(self.of(incident, now_ms));
            if notice.kind == NoticeKind::Escalated {
                // What it was called before is over.
                alerts.push(self.alert(incident, Severity::Warn, notice.at_ms));
            }
        }
        self.post(&alerts)
    }

    fn keep_up(&mut self) -> Result<(), Undelivered> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + AGAIN;
        let now_ms = self.clock.now_ms();
        let alerts: Vec<Alert> = (self.open)()
            .iter()
            .map(|incident| self.of(incident, now_ms))
            .collect();
        if alerts.is_empty() {
            return Ok(());
        }
        self.post(&alerts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::text::tests::{notice, silence};
    use crate::clock::ManualClock;

    #[test]
    fn labels_name_the_incident_and_words_explain_it() {
        let manager = Alertmanager::new(
            "alertmanager-x".to_owned(),
            Endpoint::new("http://localhost:9093/api/v2/alerts", None, None).unwrap(),
            Voice::english(Arc::default()),
            Arc::new(ManualClock::at(0)),
            Box::new(Vec::new),
        );
        let open = manager.of(&notice(NoticeKind::Opened).incident, 1_790_000_060_000);
        assert_eq!(
            serde_json::to_value(&open).unwrap(),
            serde_json::json!({
                "labels": {
                    "alertname": "VigieIncident", "incident": "C001-1790000000000",
                    "kind": "values", "rule": "rate", "severity": "critical",
                    "sensor": "C001", "quantity": "temperature",
                },
                "annotations": {
                    "summary": "C001",
                    "description": "temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)",
                },
                "startsAt": "2026-09-21T14:13:20Z",
                "endsAt": "2026-09-21T15:14:20Z",
            })
        );
        let mut over = silence(NoticeKind::Resolved, 3).incident;
        over.resolved_ms = Some(1_790_000_030_000);
        let over = manager.of(&over, 1_790_000_060_000);
        assert_eq!(over.ends_at, "2026-09-21T14:13:50Z");
        assert_eq!(over.annotations["summary"], "3 sensors of hall are silent");
        assert_eq!(over.labels["group"], "hall");
    }
}
