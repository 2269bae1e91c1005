//! English.

use super::{Label, Phrase, Tongue};
use crate::score::incident::{Kind, NoticeKind};
use crate::score::rules::{Feature, Rule, Severity};

pub(super) struct English;

impl Tongue for English {
    fn decimal_point(&self) -> char {
        '.'
    }

    fn quantity<'a>(&self, name: &'a str) -> &'a str {
        name
    }

    fn days(&self, days: u64) -> String {
        format!("{days} days")
    }

    fn label(&self, label: Label) -> &'static str {
        match label {
            Label::What => "What",
            Label::Rule => "Rule",
            Label::Also => "Also",
            Label::Since => "Since",
            Label::Severity => "Severity",
            Label::Worst => "Worst",
            Label::Sensors => "Sensors",
            Label::Unheard => "Still silent",
            Label::SoFar => "So far",
            Label::Restarted => "Restarted",
            Label::Firmware => "Firmware",
            Label::Acknowledged => "Looked after",
            Label::OverAt => "Over at",
            Label::Incident => "Incident",
            Label::Budget => "Mails",
        }
    }

    fn phrase(&self, phrase: Phrase) -> &'static str {
        match phrase {
            Phrase::Acknowledge => "I look after it",
            Phrase::FalseAlarm => "False alarm",
            Phrase::Silence => "Silence for a day",
            Phrase::OrType => "To answer, type:",
            Phrase::DigestNote => {
                "Many notices at once, or the day's mails run short: they come together. Each \
                 incident is listed once, as it was last."
            }
        }
    }

    fn severity(&self, severity: Severity) -> &'static str {
        severity.name()
    }

    fn rule(&self, rule: Rule) -> &'static str {
        rule.name()
    }

    fn meaning(&self, rule: Rule) -> &'static str {
        match rule {
            Rule::Range => "outside of what can be true, or a known error code of the sensor",
            Rule::Silence => "the sensor has stopped sending",
            Rule::Stuck => {
                "the same value over and over, for longer than ever in the last week or until it jumped"
            }
            Rule::Rate => "a jump from one reading to the next, larger than its jumps are",
            Rule::Noise => "more restless than it has been in the last week",
            Rule::Season => "unlike the days before at this time of day",
            Rule::Level => "the last two hours lie apart from the last week",
            Rule::Z => "far from the sensor's own baseline",
            Rule::Forest => "unlike the readings of its group, all quantities taken together",
            Rule::Novelty => "at a level that no day of the last week had around this time",
        }
    }

    fn silence(&self, gap: &str, every: &str, line: &str) -> String {
        format!("no reading for {gap}, expected one every {every} (line {line})")
    }

    fn link(&self, down: &str) -> String {
        format!("no connection to the MQTT broker for {down}: no sensor can be heard")
    }

    fn impossible(&self, name: &str, value: &str, last_good: Option<&str>) -> String {
        match last_good {
            None => format!("{name} {value} cannot be true"),
            Some(last) => format!("{name} {value} cannot be true (last good about {last})"),
        }
    }

    fn stuck(&self, name: &str, value: &str, readings: &str, line: &str) -> String {
        format!("{name} has been {value} for {readings} readings in a row (line {line})")
    }

    fn noise(&self, name: &str, by: &str, usually: &str, line: &str) -> String {
        format!("{name} jumps about by {by}, usually by less than {usually} (line {line})")
    }

    fn off(&self, name: &str, value: &str, expected: &str, line: &str, ratio: &str) -> String {
        format!("{name} {value}, expected {expected} (line {line}, {ratio} × its distance)")
    }

    fn jumped_back(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String {
        format!(
            "{name} was {value}, expected {expected}, and has jumped back (by {ratio} × the line of jumps)"
        )
    }

    fn jumped_away(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String {
        format!(
            "{name} has jumped to {value} together with others, expected {expected} \
             (by {ratio} × the line of jumps)"
        )
    }

    fn forest(&self, above_all: Option<&str>, score: &str, usual: &str, line: &str) -> String {
        let above_all = above_all.map(|name| format!(", above all {name}"));
        format!(
            "quantities do not fit together{}: score {score}, usual {usual} (line {line})",
            above_all.unwrap_or_default()
        )
    }

    fn evidence(&self, feature: Feature, name: &str, [value, low, high]: [&str; 3]) -> String {
        match feature {
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
    }

    fn anomalies(&self, count: u32) -> String {
        match count {
            1 => "1 anomaly".to_owned(),
            count => format!("{count} anomalies"),
        }
    }

    fn more(&self, count: usize) -> String {
        format!("and {count} more")
    }

    fn several(&self, kind: Kind, size: u32, group: Option<&str>) -> String {
        let group = group
            .map(|group| format!(" of {group}"))
            .unwrap_or_default();
        match kind {
            Kind::Silence => format!("{size} sensors{group} are silent"),
            _ => format!("{size} sensors{group} shifted together"),
        }
    }

    fn several_sensors(&self) -> &'static str {
        "several sensors"
    }

    fn broker(&self) -> &'static str {
        "no connection to the broker"
    }

    fn headline(&self, kind: NoticeKind, about: &str) -> String {
        let what = match kind {
            NoticeKind::Opened => "Something is wrong",
            NoticeKind::Escalated => "It has become critical",
            NoticeKind::Grown => "More sensors are concerned",
            NoticeKind::Reopened => "It is back",
            NoticeKind::Reminder => "It goes on",
            NoticeKind::Resolved => "It is over",
        };
        format!("{what}: {about}")
    }

    fn by(&self, person: &str, at: &str) -> String {
        format!("by {person}, {at}")
    }

    fn of_budget(&self, used: u32, budget: u32) -> String {
        format!("{used} of {budget} in the last 24 hours, one for each recipient")
    }

    fn digest_subject(&self, incidents: usize) -> String {
        match incidents {
            1 => "[Vigie] 1 incident".to_owned(),
            count => format!("[Vigie] {count} incidents"),
        }
    }

    fn digest_headline(&self, incidents: usize, notices: usize) -> String {
        format!("{notices} notices about {incidents} incidents")
    }

    fn changed(&self, firmware: &str, at: &str, from: &str) -> String {
        format!("{firmware} since {at}, before that {from}")
    }

    fn extent(&self, low: &str, high: &str, hours: &str) -> String {
        format!("{low} to {high} in {hours}")
    }
}
