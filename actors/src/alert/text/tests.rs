//! Lines, facts and subjects as people read them.

use vigie_wire::TEMPERATURE;

use super::*;
use crate::score::incident::{Mark, Member, Told};

const T: i64 = 1_790_000_000_000;

/// A notice about a jump of C001's temperature.
pub(crate) fn notice(kind: NoticeKind) -> Notice {
    let first = Verdict {
        rule: Rule::Rate,
        quantity: Some(TEMPERATURE),
        observed: 31.42,
        expected: 21.3,
        line: 21.9,
        ratio: 16.87,
        since_ms: T,
        evidence: Vec::new(),
    };
    Notice {
        number: 1,
        kind,
        incident: Incident {
            kind: Kind::Values,
            sensor: Some("C001".try_into().unwrap()),
            group: None,
            opened_ms: T,
            begun_ms: T,
            last_ms: T,
            near_ms: T,
            resolved_ms: None,
            worst: first.clone(),
            peaks: vec![(first.rule, first.ratio)],
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
            members: Vec::new(),
            relapses: 0,
            acknowledged: None,
            false_alarm: None,
            told: None,
            notices: 1,
        },
        at_ms: T + 60_000,
        is_quiet: false,
    }
}

/// A notice about the silence of so many sensors of the hall.
pub(crate) fn silence(kind: NoticeKind, size: u32) -> Notice {
    let mut notice = notice(kind);
    let incident = &mut notice.incident;
    incident.kind = Kind::Silence;
    incident.group = Some("hall".to_owned());
    incident.also.clear();
    incident.first = Verdict {
        rule: Rule::Silence,
        quantity: None,
        observed: 50.0,
        expected: 10.0,
        line: 40.0,
        ratio: 1.25,
        ..incident.first.clone()
    };
    incident.worst = incident.first.clone();
    incident.severity = Severity::Warn;
    incident.anomalies = size;
    let member = |n: u32| Member {
        sensor: SensorId::try_from(format!("C{n:03}").as_str()).unwrap(),
        since_ms: T,
        back_ms: None,
    };
    incident.members = (1..=size).map(member).collect();
    incident.told = Some(Told {
        at_ms: T,
        severity: Severity::Warn,
        members: size,
        as_group: size > 1,
        reminders: 0,
        over: false,
    });
    notice
}

fn voice(language: Language) -> Voice {
    Voice {
        language,
        ..Voice::english(Arc::default())
    }
}

#[test]
fn lines_say_sensor_what_how_far_and_since_when() {
    let voice = voice(Language::English);
    assert_eq!(
        voice.line(&notice(NoticeKind::Opened)),
        "14:14:20  critical  C001  rate: temperature 31.42 °C, expected 21.3 °C \
         (line 21.9 °C, 16.9 × its distance), since 14:13:20"
    );
    assert_eq!(
        voice.line(&notice(NoticeKind::Resolved)),
        "14:14:20  resolved  C001  normal again after 60 s (1 anomaly)"
    );
    assert_eq!(
        voice.line(&silence(NoticeKind::Opened, 40)),
        "14:14:20  warn      40 sensors of hall are silent  silence: no reading for 50 s, \
         expected one every 10 s (line 40 s), since 14:13:20"
    );
}

fn said(voice: &Voice, notice: &Notice) -> String {
    let facts = voice.facts(notice, None).into_iter();
    let lines: Vec<String> = facts
        .map(|(label, text)| format!("{}: {text}", voice.label(label)))
        .collect();
    format!("{}\n{}", voice.headline(notice), lines.join("\n"))
}

#[test]
fn facts_explain_in_both_languages() {
    let mut worse = notice(NoticeKind::Escalated);
    worse.incident.acknowledged = Some(Mark {
        at_ms: T,
        by: "Ada".to_owned(),
    });
    assert_eq!(
        said(&voice(Language::English), &worse),
        "It has become critical: C001\n\
         What: temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)\n\
         Rule: rate – a jump from one reading to the next, larger than its jumps are\n\
         Also: temperature jumps about by 2.5 °C, usually by less than 0.25 °C (line 0.5 °C) \
         (noise)\n\
         Since: 2026-09-21 14:13:20 UTC\n\
         Severity: critical\n\
         So far: 1 anomaly\n\
         Looked after: by Ada, 2026-09-21 14:13:20 UTC\n\
         Incident: C001-1790000000000"
    );
    let paris = Voice {
        zone: TimeZone::get("Europe/Paris").unwrap(),
        ..voice(Language::French)
    };
    assert_eq!(
        said(&paris, &silence(NoticeKind::Grown, 22)),
        "D'autres capteurs sont touchés : 22 capteurs de hall sont muets\n\
         Constat: aucune mesure depuis 50 s, une attendue toutes les 10 s (seuil 40 s)\n\
         Règle: silence – le capteur n'envoie plus rien\n\
         Depuis: 2026-09-21 16:13:20 CEST\n\
         Gravité: avertissement\n\
         Capteurs: 22: C001, C002, C003, C004, C005, C006, C007, C008, C009, C010, C011, C012, \
         C013, C014, C015, C016, C017, C018, C019, C020 et 2 autres\n\
         À ce jour: 22 anomalies\n\
         Incident: C001-1790000000000-silence"
    );
    let jump = paris.sentence(&worse.incident.first);
    assert!(
        jump.starts_with("température 31,42 °C, attendu 21,3 °C"),
        "{jump}"
    );
}

#[test]
fn a_thread_keeps_its_subject() {
    let voice = voice(Language::English);
    let mut alone = silence(NoticeKind::Opened, 1);
    assert_eq!(voice.subject(&alone.incident), "[Vigie] C001: silence");
    alone.incident.members = silence(NoticeKind::Grown, 8).incident.members;
    assert_eq!(voice.subject(&alone.incident), "[Vigie] C001: silence");
    let together = silence(NoticeKind::Opened, 40);
    assert_eq!(voice.subject(&together.incident), "[Vigie] hall: silence");
    let jump = notice(NoticeKind::Opened);
    assert_eq!(voice.subject(&jump.incident), "[Vigie] C001: temperature");
    let mut link = jump;
    link.incident.sensor = None;
    assert_eq!(
        voice.subject(&link.incident),
        "[Vigie] no connection to the broker"
    );
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
fn a_jump_says_where_the_values_were_or_where_they_are() {
    let verdict = |observed: f64, step: f32| Verdict {
        rule: Rule::Season,
        observed,
        ratio: 2.04,
        evidence: vec![Evidence {
            quantity: TEMPERATURE,
            feature: Feature::Step,
            value: step,
            low: -6.0,
            high: 6.0,
        }],
        ..notice(NoticeKind::Opened).incident.first
    };
    let (back, away) = (verdict(24.1, -12.0), verdict(18.2, -12.0));
    let says = |language, verdict: &Verdict| voice(language).sentence(verdict);
    assert_eq!(
        [&back, &away].map(|verdict| says(Language::English, verdict)),
        [
            "temperature was 24.1 °C, expected 21.3 °C, and has jumped back \
             (by 2 × the line of jumps)",
            "temperature has jumped to 18.2 °C together with others, expected 21.3 °C \
             (by 2 × the line of jumps)"
        ]
    );
    assert_eq!(
        [&back, &away].map(|verdict| says(Language::French, verdict)),
        [
            "température était à 24,1 °C, attendu 21,3 °C, et est revenue d'un saut \
             (de 2 × le seuil des sauts)",
            "température a sauté à 18,2 °C avec d'autres grandeurs, attendu 21,3 °C \
             (de 2 × le seuil des sauts)"
        ]
    );
}

#[test]
fn numbers_and_spans() {
    assert_eq!(
        [number(21.0), number(0.1 + 0.2), number(-0.0001)],
        ["21", "0.3", "0"]
    );
    let spans = |language| [4.2, 90.0, 600.0, 1e6].map(|s| voice(language).span(s));
    assert_eq!(
        spans(Language::English),
        ["4.2 s", "90 s", "10 min", "11 days"]
    );
    assert_eq!(
        spans(Language::French),
        ["4,2 s", "90 s", "10 min", "11 jours"]
    );
}
