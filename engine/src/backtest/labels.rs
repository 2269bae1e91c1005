//! What was wrong in recorded data, in truth.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use vigie_actors::ingest::payload::parse_time;

/// Labels of many files.
#[derive(Debug)]
pub(crate) struct Labels(BTreeMap<String, Vec<Label>>);

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// What kind it is, `event` if the labels do not say.
    pub(crate) kind: String,
    /// Which quantity it is about, if the labels say.
    pub(crate) quantity: Option<String>,
}

/// As in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Window(String, String),
    Fault {
        start: String,
        end: String,
        fault: String,
        channel: Option<String>,
    },
}

impl Labels {
    /// A JSON object: file name → list of `[start, end]` or of objects with `start`, `end`, `fault`
    /// and perhaps `channel` (a quantity, or `both`).
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} holds no labels", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let written: BTreeMap<String, Vec<Written>> = serde_json::from_str(text).context(
            "write an object of file name and list, each element [start, end] or an object with \
             start, end and fault",
        )?;
        let time = |text: &str| parse_time(text).map_err(|(_, detail)| anyhow!(detail));
        let label = |written: Written| {
            let (start, end, kind, quantity) = match written {
                Written::Window(start, end) => (start, end, "event".to_owned(), None),
                Written::Fault {
                    start,
                    end,
                    fault,
                    channel,
                } => (
                    start,
                    end,
                    fault,
                    channel.filter(|channel| channel != "both"),
                ),
            };
            Ok(Label {
                start_ms: time(&start)?,
                end_ms: time(&end)?,
                kind,
                quantity,
            })
        };
        let files = written.into_iter().map(|(file, list)| {
            let labels: anyhow::Result<Vec<Label>> = list.into_iter().map(label).collect();
            Ok((file, labels?))
        });
        Ok(Self(files.collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn of(&self, file: &str) -> &[Label] {
        self.0.get(file).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let labels = Labels::parse(
            r#"{"a.csv": [["2016-01-19 21:20:00", "2016-01-20 03:30:00"]],
                "b/c.csv": [{"start": "2016-01-19T21:20:00Z", "end": "2016-01-19 21:30:00",
                             "fault": "spike", "channel": "humidity", "rows": 2}],
                "d.csv": []}"#,
        )
        .unwrap();
        assert_eq!(labels.of("a.csv")[0].kind, "event");
        let spike = &labels.of("b/c.csv")[0];
        assert_eq!(spike.end_ms - spike.start_ms, 600_000);
        assert_eq!(spike.quantity.as_deref(), Some("humidity"));
        assert!(labels.of("d.csv").is_empty() && labels.of("e.csv").is_empty());
        let wrong = Labels::parse(r#"{"a.csv": [["yesterday", "today"]]}"#).unwrap_err();
        assert!(format!("{wrong:#}").contains("yesterday"));
    }
}
