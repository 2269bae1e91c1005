//! What incidents tell, as stories with a clock in minutes.

use std::collections::BTreeMap;
use std::convert::Infallible;

use vigie_wire::TEMPERATURE;

use super::*;
use crate::config::Span;
use crate::group;
use crate::score::maintenance;
use crate::score::rules::{Evidence, Feature};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

fn verdict(rule: Rule, ratio: f64) -> Verdict {
    Verdict {
        rule,
        quantity: (rule != Rule::Silence).then_some(TEMPERATURE),
        observed: 30.0,
        expected: 21.0,
        line: 24.0,
        ratio,
        since_ms: 1_000_000,
        evidence: Vec::new(),
    }
}

fn id(sensor: &str) -> SensorId {
    sensor.try_into().unwrap()
}

/// Incidents with a clock in minutes, and what they told.
struct Story {
    incidents: Incidents,
    told: Vec<(i64, NoticeKind)>,
    /// What only programs were told.
    quietly: Vec<(i64, NoticeKind)>,
    notices: Vec<Notice>,
    /// As the store has them.
    stored: BTreeMap<String, Incident>,
    silences: Vec<Silence>,
    raised: Vec<Raised>,
    deaf: bool,
}

impl Story {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            forest_confirm: 3,
            cool_down: Span::secs(15 * 60),
            remind_after: Span::secs(0),
            ..Config::default()
        };
        change(&mut config);
        Self::of(config, Calendar::default())
    }

    /// With a group "hall" of the sensors that begin so.
    fn of(config: Config, calendar: Calendar) -> Self {
        let hall = group::Config {
            sensors: vec!["hall*".to_owned()],
        };
        let setup = Setup {
            config,
            groups: Arc::new(Groups::new(&[("hall".to_owned(), hall)].into())),
            calendar,
        };
        Self {
            incidents: Incidents::new(setup, Vec::new(), Vec::new()),
            told: Vec::new(),
            quietly: Vec::new(),
            notices: Vec::new(),
            stored: BTreeMap::new(),
            silences: Vec::new(),
            raised: Vec::new(),
            deaf: false,
        }
    }

    fn keep(&mut self, now_ms: i64, changes: Changes) {
        for incident in changes.incidents {
            self.stored.insert(incident.id(), incident);
        }
        for incident in changes.past {
            self.stored.remove(&incident.id());
        }
        if let Some(silences) = changes.silences {
            self.silences = silences;
        }
        self.raised.extend(changes.raised);
        for notice in changes.notices {
            let told = if notice.is_quiet {
                &mut self.quietly
            } else {
                &mut self.told
            };
            told.push((now_ms / MINUTE, notice.kind));
            self.notices.push(notice);
        }
    }

    fn tick_ms(&mut self, now_ms: i64) {
        let mut changes = Changes::default();
        self.incidents.tick(now_ms, self.deaf, &mut changes);
        self.keep(now_ms, changes);
    }

    fn tick(&mut self, minute: i64) {
        self.tick_ms(minute * MINUTE);
    }

    fn tick_to(&mut self, minutes: std::ops::RangeInclusive<i64>) {
        for minute in minutes {
            self.tick(minute);
        }
    }

    fn read(&mut self, minute: i64, sensor: &str, fired: &[Verdict], near: Near) {
        let now = minute * MINUTE;
        self.incidents
            .reading(id(sensor), (now, now), (fired, near));
        self.tick(minute);
    }

    fn normal(&mut self, minute: i64, sensor: &str) {
        self.read(minute, sensor, &[], Near::default());
    }

    fn fires(&mut self, minute: i64, sensor: &str, rule: Rule, ratio: f64) {
        self.read(minute, sensor, &[verdict(rule, ratio)], Near::default());
    }

    fn falls_silent(&mut self, minute: i64, sensor: &str) {
        let now = minute * MINUTE;
        let verdict = verdict(Rule::Silence, 1.2);
        self.incidents.silence(id(sensor), (now, now), &verdict);
        self.tick(minute);
    }

    fn order(&mut self, minute: i64, incident: &str, deed: Deed) {
        let mut changes = Changes::default();
        let order = Order {
            incident: incident.to_owned(),
            deed,
            by: "Ada".to_owned(),
        };
        let stored = self.stored.clone();
        let find = |id: &str| Ok::<_, Infallible>(stored.get(id).cloned());
        let raised = self.raised.clone();
        let raised_by = |sensor: &SensorId, rule| {
            let of = |line: &&Raised| line.sensor == *sensor && line.rule == rule;
            raised.iter().rfind(of).map_or(1.0, |line| line.factor)
        };
        let now_ms = minute * MINUTE;
        self.incidents
            .order(7, &order, now_ms, find, raised_by, &mut changes)
            .unwrap();
        assert_eq!(changes.done, [7]);
        self.keep(minute * MINUTE, changes);
        self.tick(minute);
    }

    /// The engine is killed and started again.
    fn restart(&mut self) {
        let stored = self.stored.values().cloned().collect();
        self.incidents.replace(stored, self.silences.clone());
    }

    fn ids(&self) -> Vec<&str> {
        self.stored.keys().map(String::as_str).collect()
    }
}

use NoticeKind::{Escalated, Grown, Opened, Reminder, Reopened, Resolved};

#[test]
fn one_mail_per_episode() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.fires(2, "C001", Rule::Z, 1.3);
    story.normal(3, "C001");
    story.tick(11);
    story.tick(12);
    assert_eq!(story.told, [(1, Opened), (12, Resolved)]);
    assert_eq!(story.ids(), ["C001-60000"]);
}

#[test]
fn near_the_line_it_is_not_over_but_nothing_begins_there() {
    let mut story = Story::new(|_| {});
    let near = |rule| Near::from_iter([rule]);
    story.read(1, "C001", &[], near(Rule::Z));
    story.fires(2, "C001", Rule::Z, 1.2);
    story.read(10, "C001", &[], near(Rule::Z));
    story.tick(13);
    story.read(19, "C001", &[], near(Rule::Z));
    story.normal(22, "C001");
    story.read(25, "C001", &[], near(Rule::Rate));
    story.normal(30, "C001");
    assert_eq!(story.told, [(2, Opened), (30, Resolved)]);
}

#[test]
fn it_speaks_again_only_when_it_becomes_worse() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.fires(2, "C001", Rule::Z, 2.5);
    story.fires(3, "C001", Rule::Z, 9.0);
    assert_eq!(story.told, [(1, Opened), (2, Escalated)]);
}

#[test]
fn what_does_not_last_is_not_told() {
    let mut story = Story::new(|config| config.min_duration = Span::secs(300));
    story.fires(1, "C001", Rule::Z, 1.2);
    story.tick_to(2..=20);
    assert_eq!(story.told, []);
    story.fires(40, "C001", Rule::Z, 1.2);
    story.fires(44, "C001", Rule::Z, 1.2);
    story.fires(45, "C001", Rule::Z, 1.2);
    assert_eq!(story.told, [(45, Opened)]);
}

#[test]
fn silence_ends_only_with_a_reading() {
    let mut story = Story::new(|_| {});
    story.falls_silent(1, "C001");
    story.tick_ms(MINUTE + 29_000);
    assert_eq!(story.told, [], "others may fall silent, too");
    story.tick(50);
    story.normal(60, "C001");
    story.tick(65);
    story.tick(70);
    assert_eq!(story.told, [(50, Opened), (70, Resolved)]);
}

#[test]
fn a_gap_that_nobody_looked_at_is_told_afterwards() {
    let mut story = Story::new(|_| {});
    let fired = [verdict(Rule::Silence, 3.0), verdict(Rule::Z, 1.5)];
    story.read(5, "C001", &fired, Near::default());
    story.tick_to(6..=20);
    // Two causes, two incidents: it was away, and it is different.
    assert_eq!(
        story.told,
        [(5, Opened), (6, Opened), (15, Resolved), (15, Resolved)]
    );
    assert_eq!(story.ids(), ["C001-300000", "C001-300000-silence"]);
}

/// Bad Wi-Fi: gone and back, again and again.
#[test]
fn a_sensor_that_comes_and_goes_is_one_incident() {
    let mut story = Story::new(|config| config.cool_down = Span::secs(6 * 3600));
    for time in 0..24 {
        story.falls_silent(60 * time, "C001");
        story.tick(60 * time + 1);
        for minute in 2..60 {
            story.normal(60 * time + minute, "C001");
        }
    }
    assert_eq!(story.ids(), ["C001-0-silence"]);
    assert!(story.told.len() < 12, "{:?}", story.told);
    assert_eq!(story.stored["C001-0-silence"].size(), 1);
}

#[test]
fn an_incident_does_not_end_while_its_sensor_is_silent() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.falls_silent(3, "C001");
    story.tick_to(4..=40);
    assert_eq!(story.told, [(1, Opened), (4, Opened)]);
    story.normal(41, "C001");
    story.tick_to(42..=51);
    assert_eq!(story.told[2..], [(51, Resolved), (51, Resolved)]);
}

#[test]
fn a_relapse_is_the_same_incident_and_lasts_longer() {
    let mut story = Story::new(|config| config.cool_down = Span::secs(6 * 3600));
    story.fires(1, "C001", Rule::Z, 1.2);
    story.tick(11);
    story.fires(20, "C001", Rule::Z, 1.2);
    story.tick_to(21..=60);
    assert_eq!(
        story.told,
        [(1, Opened), (11, Resolved), (20, Reopened), (40, Resolved)]
    );
    assert_eq!(story.ids(), ["C001-60000"]);
}

#[test]
fn after_the_cool_down_it_is_another_one() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.tick(11);
    story.tick(27);
    story.fires(28, "C001", Rule::Z, 1.2);
    assert_eq!(story.told, [(1, Opened), (11, Resolved), (28, Opened)]);
}

/// A value that crosses its line every quarter of an hour, for a day.
#[test]
fn flapping_is_one_incident_and_few_mails() {
    let mut story = Story::new(|config| config.cool_down = Span::secs(6 * 3600));
    for quarter in 0..96 {
        story.fires(1 + quarter * 15, "C001", Rule::Z, 1.1);
        for minute in 1..15 {
            story.normal(1 + quarter * 15 + minute, "C001");
        }
    }
    assert_eq!(story.ids(), ["C001-60000"]);
    assert_eq!(
        story.told,
        [(1, Opened), (11, Resolved), (16, Reopened)],
        "after the first relapse it has to be calm for longer"
    );
}

#[test]
fn the_forest_alone_must_insist() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Forest, 1.2);
    story.normal(2, "C001");
    story.fires(3, "C001", Rule::Forest, 1.2);
    assert_eq!(story.told, []);
    story.fires(4, "C001", Rule::Forest, 1.2);
    assert_eq!(story.told, [(4, Opened)]);
    for minute in [5, 24, 44] {
        story.fires(minute, "C002", Rule::Forest, 1.2);
    }
    assert_eq!(story.told, [(4, Opened), (24, Resolved)]);
}

/// Hints that lie days apart do not insist because a backlog of them comes within a second.
#[test]
fn hints_of_a_backlog_are_as_far_apart_as_its_readings() {
    let mut story = Story::new(|_| {});
    let now = 9000 * MINUTE;
    let mut hint = |minute: i64| {
        let fired = [verdict(Rule::Forest, 1.2)];
        let times = (minute * MINUTE, now);
        story
            .incidents
            .reading(id("C001"), times, (&fired, Near::default()));
        story.tick_ms(now);
        story.told.len()
    };
    for hour in 0..20 {
        assert_eq!(hint(hour * 60), 0, "in hour {hour}");
    }
    assert_eq!(hint(5001), 0);
    assert_eq!(hint(5002), 0);
    assert_eq!(hint(5003), 1);
}

/// A backlog with old times: one opening, one end, by the clock of whoever is told.
#[test]
fn an_old_backlog_is_one_episode() {
    let mut story = Story::new(|_| {});
    for step in 0..20_i64 {
        let now = 100 * MINUTE + step * 1000;
        let fired = [verdict(Rule::Z, 1.2)];
        let times = (now - 90 * MINUTE, now);
        story
            .incidents
            .reading(id("C001"), times, (&fired, Near::default()));
        story.tick_ms(now);
    }
    story.tick(111);
    assert_eq!(story.told, [(100, Opened), (111, Resolved)]);
}

#[test]
fn a_group_that_is_cut_off_is_one_incident() {
    let mut story = Story::new(|_| {});
    for sensor in 0..40 {
        let now = 10 * MINUTE + sensor * 500;
        let verdict = verdict(Rule::Silence, 1.2);
        let name = format!("hall{sensor}");
        story.incidents.silence(id(&name), (now, now), &verdict);
        story.tick_ms(now);
    }
    story.tick_to(11..=60);
    assert_eq!(story.told, [(11, Opened)]);
    assert_eq!(story.notices[0].incident.size(), 40);
    assert!(story.notices[0].incident.told.as_ref().unwrap().as_group);
    assert_eq!(story.ids(), ["hall0-600000-silence"]);
    for sensor in 0..40 {
        story.normal(61 + sensor / 10, &format!("hall{sensor}"));
    }
    story.tick_to(65..=80);
    assert_eq!(story.told, [(11, Opened), (74, Resolved)]);
}

#[test]
fn one_by_one_over_an_hour_the_incident_grows_in_one_thread() {
    let mut story = Story::new(|_| {});
    for sensor in 0..40 {
        story.falls_silent(10 + sensor * 3 / 2, &format!("hall{sensor}"));
    }
    story.falls_silent(30, "attic");
    story.tick_to(70..=80);
    let hall: Vec<_> = story
        .notices
        .iter()
        .filter(|notice| notice.incident.group.is_some())
        .map(|notice| (notice.kind, notice.incident.size()))
        .collect();
    assert_eq!(
        hall,
        [
            (Opened, 2),
            (Grown, 4),
            (Grown, 8),
            (Grown, 16),
            (Grown, 32)
        ]
    );
    assert_eq!(
        story.ids(),
        ["attic-1800000-silence", "hall0-600000-silence"]
    );
}

#[test]
fn sensors_that_shift_together_have_one_cause() {
    let mut story = Story::new(|_| {});
    for (minute, sensor) in (1..).zip(["hall1", "hall2", "hall3", "hall4"]) {
        story.fires(minute, sensor, Rule::Level, 1.3);
    }
    // Another place, another direction, something broken: all have causes of their own.
    story.fires(5, "attic", Rule::Level, 1.3);
    let mut down = verdict(Rule::Level, 1.3);
    down.observed = 10.0;
    story.read(5, "hall5", &[down], Near::default());
    story.fires(5, "hall6", Rule::Stuck, 1.3);
    assert_eq!(
        story.told,
        [
            (1, Opened),
            (2, Opened),
            (3, Opened),
            (5, Opened),
            (5, Opened),
            (5, Opened)
        ]
    );
    assert_eq!(story.quietly, [(3, Resolved), (3, Resolved)], "those in it");
    let shared = &story.stored["hall1-180000-shift"];
    assert_eq!(shared.size(), 4);
    story.tick_to(6..=30);
    assert_eq!(
        story
            .told
            .iter()
            .filter(|(_, kind)| *kind == Resolved)
            .count(),
        4,
        "the shared one ends once, and those that became part of it were not told again"
    );
}

#[test]
fn in_a_large_group_a_few_at_a_time_are_chance() {
    let mut story = Story::new(|_| {});
    let names: Vec<String> = (0..1000).map(|n| format!("hall{n}")).collect();
    story.incidents.set_sizes(names.iter().map(|name| id(name)));
    for (minute, name) in (1..).zip(&names[..12]) {
        story.fires(minute, name, Rule::Level, 1.3);
    }
    assert!(story.stored.values().all(|one| one.kind == Kind::Values));
    story.fires(13, "hall12", Rule::Level, 1.3);
    assert_eq!(story.notices.last().unwrap().incident.size(), 13);
}

#[test]
fn a_lost_broker_is_one_incident_about_the_broker() {
    let mut story = Story::new(|_| {});
    story.deaf = true;
    story.tick(1);
    story.tick(2);
    assert_eq!(story.told, [], "brokers restart");
    story.tick_to(3..=10);
    story.deaf = false;
    story.tick_to(11..=21);
    assert_eq!(story.told, [(3, Opened), (21, Resolved)]);
    assert_eq!(story.ids(), ["engine-180000-link"]);
}

#[test]
fn a_restart_while_the_broker_is_away_tells_nothing() {
    let mut story = Story::new(|_| {});
    story.deaf = true;
    story.tick_to(1..=60);
    story.restart();
    // Nobody knows yet whether it is back.
    story.deaf = false;
    story.tick(61);
    story.deaf = true;
    story.tick_to(62..=80);
    assert_eq!(story.told, [(3, Opened)]);
    story.deaf = false;
    story.tick_to(81..=91);
    assert_eq!(story.told, [(3, Opened), (91, Resolved)]);
}

#[test]
fn reminders_come_less_and_less_until_somebody_looks_after_it() {
    let mut story = Story::new(|config| config.remind_after = Span::secs(4 * 3600));
    story.falls_silent(0, "C001");
    let hours = |story: &Story| -> Vec<i64> {
        let reminders = story.told.iter().filter(|(_, kind)| *kind == Reminder);
        reminders.map(|(minute, _)| minute / 60).collect()
    };
    for hour in 1..=100 {
        story.tick(hour * 60 + 1);
    }
    assert_eq!(hours(&story), [5, 13, 29, 61]);
    story.order(6_100, "C001-0-silence", Deed::Acknowledge);
    for hour in 102..=800 {
        story.tick(hour * 60);
    }
    assert_eq!(hours(&story).len(), 4);
    let mark = story.stored["C001-0-silence"].acknowledged.clone().unwrap();
    assert_eq!((mark.by.as_str(), mark.at_ms), ("Ada", 6_100 * MINUTE));
}

#[test]
fn a_restart_neither_repeats_nor_forgets() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.falls_silent(1, "hall1");
    story.falls_silent(1, "hall2");
    story.fires(1, "attic", Rule::Range, 3.0);
    story.tick(2);
    let before = story.told.len();
    assert_eq!(before, 3);
    story.restart();
    story.falls_silent(2, "hall1");
    story.fires(3, "C001", Rule::Z, 1.2);
    story.falls_silent(3, "hall3");
    assert_eq!(story.told.len(), before);
    assert_eq!(story.stored["hall1-60000-silence"].size(), 3);
    for sensor in ["hall1", "hall2", "hall3"] {
        story.normal(4, sensor);
    }
    story.restart();
    story.tick_to(5..=20);
    let over = story.told.iter().filter(|(_, kind)| *kind == Resolved);
    assert_eq!(over.count(), 3);
}

#[test]
fn during_maintenance_nothing_is_told_and_afterwards_what_goes_on() {
    let window = maintenance::Config {
        cron: "0 2 * * *".to_owned(),
        lasts: Span::secs(3600),
        time_zone: Some("UTC".to_owned()),
        sensors: Vec::new(),
        groups: vec!["hall".to_owned()],
    };
    let mut story = Story::of(Config::default(), Calendar::new(&[window]));
    story.tick(120);
    story.fires(121, "hall1", Rule::Z, 1.2);
    story.fires(121, "attic", Rule::Z, 1.2);
    story.tick_to(122..=140);
    assert_eq!(story.told, [(121, Opened), (131, Resolved)], "the attic's");
    story.fires(178, "hall2", Rule::Z, 1.2);
    story.tick_to(179..=183);
    assert_eq!(
        story.told[2..],
        [(180, Opened)],
        "what began and ended in it is not told"
    );
    assert_eq!(story.notices[2].incident.id(), "hall2-10680000");
}

#[test]
fn a_silenced_sensor_is_not_told_about_until_then() {
    let mut story = Story::new(|_| {});
    story.fires(1, "C001", Rule::Z, 1.2);
    story.order(2, "C001-60000", Deed::Silence(HOUR));
    assert_eq!(story.silences.len(), 1);
    story.restart();
    story.tick_to(3..=30);
    story.fires(31, "C001", Rule::Range, 9.0);
    story.fires(31, "C002", Rule::Z, 1.2);
    assert_eq!(story.told, [(1, Opened), (31, Opened)], "the other's");
    for minute in 32..=60 {
        story.fires(minute, "C001", Rule::Range, 9.0);
    }
    // What ended meanwhile is owed.
    assert_eq!(
        story.told[2..],
        [(41, Resolved), (60, Resolved), (60, Opened)]
    );
    assert_eq!(story.notices[3].incident.id(), "C001-60000");
    assert!(story.silences.is_empty());
}

#[test]
fn a_false_alarm_is_over_and_its_line_rises() {
    let mut story = Story::new(|config| config.raise_at_most = 1.5);
    story.fires(1, "C001", Rule::Z, 1.2);
    story.order(2, "C001-60000", Deed::FalseAlarm);
    let raised = story.raised[0];
    assert_eq!((raised.sensor, raised.rule), (id("C001"), Rule::Z));
    assert!((raised.factor - 1.26).abs() < 1e-9, "{raised:?}");
    story.fires(3, "C001", Rule::Z, 1.2);
    story.tick_to(4..=12);
    assert_eq!(
        story.told,
        [(1, Opened)],
        "no mail about its end, or about more of it"
    );
    assert_eq!(story.quietly, [(2, Resolved)], "who counts on an end");
    story.tick(13);
    assert!(story.stored.is_empty(), "{:?}", story.stored);
    story.fires(14, "C001", Rule::Range, 9.0);
    story.order(15, "C001-840000", Deed::FalseAlarm);
    assert_eq!(story.raised.len(), 1, "what cannot be true stays so");
    story.fires(30, "C002", Rule::Z, 9.0);
    story.order(31, "C002-1800000", Deed::FalseAlarm);
    assert!((story.raised[1].factor - 1.5).abs() < 1e-9);
    story.order(32, "nobody-1", Deed::FalseAlarm);
}

#[test]
fn each_line_that_a_false_alarm_was_over_rises_by_what_it_was_over_it() {
    let mut story = Story::new(|config| config.raise_at_most = 2.0);
    let factors = |story: &Story| {
        let lines = story.raised.iter();
        lines
            .map(|line| (line.rule, (line.factor * 1e3).round()))
            .collect::<Vec<_>>()
    };
    story.fires(1, "C001", Rule::Z, 1.2);
    story.fires(2, "C001", Rule::Noise, 6.0);
    story.fires(3, "C001", Rule::Z, 1.1);
    story.order(4, "C001-60000", Deed::FalseAlarm);
    let first = [(Rule::Z, 1260.0), (Rule::Noise, 2000.0)];
    assert_eq!(factors(&story), first, "each by its own");
    story.order(5, "C001-60000", Deed::FalseAlarm);
    assert_eq!(factors(&story), first, "said twice");
    // Over the line that has risen: it rises further.
    story.fires(40, "C001", Rule::Z, 1.3);
    story.order(41, "C001-2400000", Deed::FalseAlarm);
    assert_eq!(factors(&story)[2..], [(Rule::Z, 1720.0)]);
    story.fires(80, "C001", Rule::Noise, 1.3);
    story.order(81, "C001-4800000", Deed::FalseAlarm);
    assert_eq!(story.raised.len(), 3, "no further than that");
}

#[test]
fn after_a_false_alarm_a_broken_sensor_is_told_all_the_same() {
    for (rule, ratio, is_told) in [
        (Rule::Z, 1.9, false),
        (Rule::Rate, 1.5, false),
        (Rule::Z, 2.1, true),
        (Rule::Stuck, 1.2, true),
        (Rule::Range, 3.0, true),
    ] {
        let mut story = Story::new(|_| {});
        story.fires(1, "C001", Rule::Z, 1.2);
        story.order(2, "C001-60000", Deed::FalseAlarm);
        // All the while it goes on.
        for minute in 3..=30 {
            story.fires(minute, "C001", rule, ratio);
        }
        let expected = [(1, Opened), (3, Opened)];
        let told = if is_told {
            &expected[..]
        } else {
            &expected[..1]
        };
        assert_eq!(story.told, told, "{rule:?} {ratio}");
    }
}

#[test]
fn noise_that_begins_with_a_jump_is_explained_as_noise() {
    let at = |rule, minute: i64| Verdict {
        since_ms: minute * MINUTE,
        ..verdict(rule, 1.2)
    };
    // (what fires at first and after that, the first of it is the explanation; when; that of the
    // incident)
    let (alone, both) = (&[Rule::Rate][..], &[Rule::Rate, Rule::Noise][..]);
    for (first, rules, minute, best) in [
        (both, &[Rule::Noise, Rule::Rate][..], 40, Rule::Noise),
        (alone, &[Rule::Noise, Rule::Rate], 40, Rule::Noise),
        (alone, &[Rule::Noise], 40, Rule::Noise),
        // A jump still echoes.
        (both, &[Rule::Noise], 40, Rule::Rate),
        (both, &[Rule::Rate, Rule::Noise], 40, Rule::Rate),
        (both, &[Rule::Season, Rule::Rate], 40, Rule::Rate),
        (both, &[Rule::Noise, Rule::Rate], 4 * 60, Rule::Rate),
        (alone, &[Rule::Noise], 4 * 60, Rule::Rate),
    ] {
        let mut story = Story::new(|config| config.clear_after = Span::secs(6 * 3600));
        let jump: Vec<_> = first.iter().map(|rule| at(*rule, 10)).collect();
        story.read(10, "a", &jump, Near::default());
        let fired: Vec<_> = rules.iter().map(|rule| at(*rule, minute)).collect();
        story.read(minute, "a", &fired, Near::default());
        let incident = story.stored.values().next().unwrap();
        assert_eq!(incident.explanation().rule, best, "{rules:?} {minute}");
        assert_eq!(incident.first.rule, Rule::Rate, "what began it stays");
    }
}

/// What a jump back to the usual tells of.
fn returned(minute: i64) -> Verdict {
    Verdict {
        since_ms: (minute - 300) * MINUTE,
        evidence: vec![Evidence {
            quantity: TEMPERATURE,
            feature: Feature::Step,
            value: -9.0,
            low: -6.0,
            high: 6.0,
        }],
        ..verdict(Rule::Season, 1.2)
    }
}

#[test]
fn a_jump_back_is_explained_by_where_it_came_from_unless_it_is_taken_back() {
    let jump = |minute: i64, value: f64| Verdict {
        since_ms: minute * MINUTE,
        observed: value,
        expected: 25.0,
        ..verdict(Rule::Rate, 1.2)
    };
    // (minute, the value after another jump, noise as well; the explanation, what else)
    for (minute, value, noise, best, also) in [
        (20, 29.5, false, Rule::Rate, &[Rule::Season][..]),
        // Still where it is usual.
        (20, 22.0, false, Rule::Season, &[Rule::Rate]),
        (80, 29.5, false, Rule::Season, &[Rule::Rate]),
        (80, 22.0, true, Rule::Noise, &[Rule::Season, Rule::Rate]),
    ] {
        let mut story = Story::new(|config| config.clear_after = Span::secs(6 * 3600));
        story.read(10, "a", &[returned(10), jump(10, 21.0)], Near::default());
        let mut fired = vec![jump(minute, value)];
        if noise {
            fired.insert(
                0,
                Verdict {
                    rule: Rule::Noise,
                    ..fired[0].clone()
                },
            );
        }
        story.read(minute, "a", &fired, Near::default());
        let incident = story.stored.values().next().unwrap();
        let said = incident.explanation();
        assert_eq!(said.rule, best, "{minute} {value}");
        assert_eq!(incident.first.rule, Rule::Season, "what began it stays");
        let since = if best == Rule::Season { -290 } else { 10 };
        assert_eq!(incident.since_ms(), since * MINUTE);
        let others: Vec<Rule> = incident.others().map(|one| one.rule).collect();
        assert_eq!(others, also, "{minute} {value}");
    }
}

#[test]
fn a_false_alarm_about_a_jump_back_raises_the_line_of_jumps() {
    let mut story = Story::new(|_| {});
    let jump = verdict(Rule::Rate, 1.2);
    story.read(10, "C001", &[returned(10), jump], Near::default());
    story.order(11, "C001-600000", Deed::FalseAlarm);
    let raised: Vec<Rule> = story.raised.iter().map(|one| one.rule).collect();
    assert_eq!(raised, [Rule::Rate]);
}
