//! The words of a notice: one line for the terminal, subject and body for a mail. Pure.

use std::fmt::Write;

use crate::clock::rfc3339;
use crate::quantity::Catalogue;
use crate::score::incident::{Notice, NoticeKind};
use crate::score::rules::{Evidence, Feature, Rule, Verdict};

/// A number as people write it: as many digits as it needs, three behind the point at most.
fn number(x: f64) -> String {
    let text = format!("{x:.3}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    if text == "-0" { "0".to_owned() } else { text }
}

/// A span of seconds as people say it.
pub fn span(seconds: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a span of time"
    )]
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..=119 => format!("{} s", number((seconds * 10.0).round() / 10.0)),
        120..=7_199 => format!("{} min", whole / 60),
        7_200..=172_799 => format!("{} h", whole / 3600),
        _ => format!("{} days", whole / 86_400),
    }
}

/// `14:03:22` of the day, UTC, for lines that are read within the day.
fn clock_time(ms: i64) -> String {
    rfc3339(ms).get(11..19).unwrap_or("?").to_owned()
}

/// What a verdict says: `temperature 31.42 °C, expected 21.3 °C (line 23.1 °C, 5.6 × over)`.
pub fn sentence(verdict: &Verdict, catalogue: &Catalogue) -> String {
    let ratio = number((verdict.ratio * 10.0).round() / 10.0);
    match verdict.rule {
        Rule::Silence => format!(
            "no reading for {}, expected one every {} (line {})",
            span(verdict.observed),
            span(verdict.expected),
            span(verdict.line),
        ),
        Rule::Forest => {
            format!(
                "quantities do not fit together{}: score {}, usual {} (line {})",
                verdict
                    .quantity
                    .and_then(|id| catalogue.get(id))
                    .map(|spec| format!(", above all {}", spec.name))
                    .unwrap_or_default(),
                number(verdict.observed),
                number(verdict.expected),
                number(verdict.line),
            ) + &evidence(verdict, catalogue)
        }
        Rule::Range
        | Rule::Stuck
        | Rule::Rate
        | Rule::Noise
        | Rule::Season
        | Rule::Level
        | Rule::Z => {
            let spec = verdict.quantity.and_then(|id| catalogue.get(id));
            let (name, unit) = spec.map_or(("value", ""), |spec| {
                (spec.name.as_str(), spec.unit.as_str())
            });
            let with_unit = |x: f64| format!("{} {unit}", number(x)).trim_end().to_owned();
            let observed = with_unit(verdict.observed);
            let expected = with_unit(verdict.expected);
            let line = with_unit(verdict.line);
            match verdict.rule {
                // Of a sensor without a good reading yet, none is expected.
                Rule::Range if observed == expected => format!("{name} {observed} cannot be true"),
                Rule::Range => {
                    format!("{name} {observed} cannot be true (last good about {expected})")
                }
                Rule::Stuck => format!(
                    "{name} has been {expected} for {} readings in a row (line {})",
                    number(verdict.observed),
                    number(verdict.line.ceil()),
                ),
                Rule::Noise => format!(
                    "{name} jumps about by {observed}, usually by less than {expected} (line {line})"
                ),
                _ => format!(
                    "{name} {observed}, expected {expected} (line {line}, {ratio} × its distance)"
                ),
            }
        }
    }
}

/// What the forest looked at: `; temperature's step is 7.2 spreads (usually -1.5 to 1.6)`.
fn evidence(verdict: &Verdict, catalogue: &Catalogue) -> String {
    let say = |evidence: &Evidence| {
        let name = catalogue
            .get(evidence.quantity)
            .map_or("value", |spec| spec.name.as_str());
        let [value, low, high] = [evidence.value, evidence.low, evidence.high].map(|x| {
            let x = f64::from(x);
            // A logarithm says nothing to people, a factor does.
            let x = if evidence.feature == Feature::Noise {
                x.exp()
            } else {
                x
            };
            number((x * 10.0).round() / 10.0)
        });
        match evidence.feature {
            Feature::Distance => {
                format!("{name} is {value} spreads from its baseline (usually {low} to {high})")
            }
            Feature::Deviation => {
                format!("{name} is {value} spreads off its course (usually {low} to {high})")
            }
            Feature::Step => {
                format!("{name} stepped by {value} spreads (usually {low} to {high})")
            }
            Feature::Noise => {
                format!("{name} is {value} × as restless as usual ({low} to {high})")
            }
        }
    };
    let said: Vec<String> = verdict.evidence.iter().map(say).collect();
    if said.is_empty() {
        String::new()
    } else {
        format!("; {}", said.join(", "))
    }
}

fn anomalies(count: u32) -> String {
    if count == 1 {
        "1 anomaly".to_owned()
    } else {
        format!("{count} anomalies")
    }
}

/// What a rule looks for, for people.
pub const fn meaning(rule: Rule) -> &'static str {
    match rule {
        Rule::Range => "outside of what can be true, or a known error code of the sensor",
        Rule::Silence => "the sensor has stopped sending",
        Rule::Stuck => "the same value over and over, for longer than ever in the last week",
        Rule::Rate => "a jump from one reading to the next, larger than its jumps are",
        Rule::Noise => "more restless than it has been in the last week",
        Rule::Season => "unlike the days before at this time of day",
        Rule::Level => "the last two hours lie apart from the last week",
        Rule::Z => "far from the sensor's own baseline",
        Rule::Forest => "unlike the readings of its group, all quantities taken together",
    }
}

/// One readable line: when, what, which sensor, how far, since when.
pub fn line(notice: &Notice, catalogue: &Catalogue) -> String {
    let incident = &notice.incident;
    let sensor = incident.sensor;
    let at = clock_time(notice.at_ms);
    let severity = incident.severity.name();
    match notice.kind {
        NoticeKind::Opened => format!(
            "{at}  {severity:<8}  {sensor}  {}: {}, since {}",
            incident.first.rule.name(),
            sentence(&incident.first, catalogue),
            clock_time(incident.first.since_ms),
        ),
        NoticeKind::Escalated => format!(
            "{at}  {severity:<8}  {sensor}  {}: {}, getting worse since {}",
            incident.worst.rule.name(),
            sentence(&incident.worst, catalogue),
            clock_time(incident.opened_ms),
        ),
        NoticeKind::Resolved => format!(
            "{at}  resolved  {sensor}  normal again after {} ({})",
            span((notice.at_ms - incident.opened_ms) as f64 / 1000.0),
            anomalies(incident.anomalies),
        ),
    }
}

/// Subject of every mail about an incident: the same for all, so that they stay one thread.
pub fn subject(notice: &Notice, catalogue: &Catalogue) -> String {
    let incident = &notice.incident;
    let what = incident
        .first
        .quantity
        .and_then(|id| catalogue.get(id))
        .map_or_else(
            || incident.first.rule.name().to_owned(),
            |spec| spec.name.clone(),
        );
    format!("[Vigie] {}: {what}", incident.sensor)
}

/// Body of a mail.
pub fn body(notice: &Notice, catalogue: &Catalogue) -> String {
    let incident = &notice.incident;
    let mut text = String::new();
    let headline = match notice.kind {
        NoticeKind::Opened => "Something is wrong",
        NoticeKind::Escalated => "It has become critical",
        NoticeKind::Resolved => "It is over",
    };
    let mut put = |label: &str, value: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{label:<12}{value}");
    };
    put("", &format!("{headline}: sensor {}.\n", incident.sensor));
    put("What", &sentence(&incident.first, catalogue));
    put(
        "Rule",
        &format!(
            "{} – {}",
            incident.first.rule.name(),
            meaning(incident.first.rule)
        ),
    );
    for verdict in &incident.also {
        let rule = verdict.rule.name();
        put(
            "Also",
            &format!("{} ({rule})", sentence(verdict, catalogue)),
        );
    }
    put("Since", &rfc3339(incident.first.since_ms));
    put("Severity", incident.severity.name());
    if incident.worst != incident.first {
        put("Worst", &sentence(&incident.worst, catalogue));
    }
    put("So far", &anomalies(incident.anomalies));
    if let Some(resolved) = incident.resolved_ms {
        put("Over at", &rfc3339(resolved));
    }
    put("Incident", &incident.id());
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use vigie_wire::TEMPERATURE;

    use super::*;
    use crate::score::incident::Incident;
    use crate::score::rules::Severity;

    fn notice(kind: NoticeKind) -> Notice {
        let first = Verdict {
            rule: Rule::Rate,
            quantity: Some(TEMPERATURE),
            observed: 31.42,
            expected: 21.3,
            line: 21.9,
            ratio: 16.87,
            since_ms: 1_790_000_000_000,
            evidence: Vec::new(),
        };
        Notice {
            number: 1,
            kind,
            incident: Incident {
                sensor: "C001".try_into().unwrap(),
                opened_ms: 1_790_000_000_000,
                last_ms: 1_790_000_000_000,
                near_ms: 1_790_000_000_000,
                resolved_ms: None,
                worst: first.clone(),
                also: vec![Verdict {
                    rule: Rule::Noise,
                    observed: 2.5,
                    expected: 0.25,
                    line: 0.5,
                    ..first.clone()
                }],
                first,
                severity: Severity::Critical,
                anomalies: 1,
                silent: false,
                notices: 1,
            },
            at_ms: 1_790_000_060_000,
        }
    }

    #[test]
    fn lines_say_sensor_what_how_far_and_since_when() {
        let catalogue = Catalogue::default();
        assert_eq!(
            line(&notice(NoticeKind::Opened), &catalogue),
            "14:14:20  critical  C001  rate: temperature 31.42 °C, expected 21.3 °C \
             (line 21.9 °C, 16.9 × its distance), since 14:13:20"
        );
        assert_eq!(
            line(&notice(NoticeKind::Resolved), &catalogue),
            "14:14:20  resolved  C001  normal again after 60 s (1 anomaly)"
        );
    }

    #[test]
    fn a_mail_explains() {
        let text = body(&notice(NoticeKind::Opened), &Catalogue::default());
        for part in [
            "C001",
            "31.42 °C",
            "Also        temperature jumps about by 2.5 °C",
            "21.3 °C",
            "rate",
            "2026-09-21T14:13:20Z",
            "critical",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_forest_says_what_it_saw() {
        let evidence = |feature, value| Evidence {
            quantity: TEMPERATURE,
            feature,
            value,
            low: -0.5,
            high: 1.25,
        };
        let verdict = Verdict {
            rule: Rule::Forest,
            observed: 0.75,
            expected: 0.5,
            line: 0.625,
            evidence: vec![evidence(Feature::Step, 7.24), evidence(Feature::Noise, 2.0)],
            ..notice(NoticeKind::Opened).incident.first
        };
        assert_eq!(
            sentence(&verdict, &Catalogue::default()),
            "quantities do not fit together, above all temperature: score 0.75, usual 0.5 \
             (line 0.625); temperature stepped by 7.2 spreads (usually -0.5 to 1.3), \
             temperature is 7.4 × as restless as usual (0.6 to 3.5)"
        );
    }

    #[test]
    fn numbers_and_spans() {
        assert_eq!(
            [number(21.0), number(0.1 + 0.2), number(-0.0001)],
            ["21", "0.3", "0"]
        );
        assert_eq!(
            [span(4.2), span(90.0), span(600.0), span(1e6)],
            ["4.2 s", "90 s", "10 min", "11 days"]
        );
    }
}
