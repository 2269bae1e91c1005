//! The rules that judge one reading, or its absence: range, z-score, step, silence. Each gives
//! observed ÷ line; at 1 it fires.

use serde::{Deserialize, Serialize};
use vigie_wire::QuantityId;

use crate::quantity::Catalogue;
use crate::stats::channel::{Look, z_line};
use crate::stats::season::{Distance, Jump};
use crate::stats::share::{Silence, SilenceLine};

/// What found an anomaly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Outside of what can be true, or a known error code.
    Range,
    /// No reading for several expected intervals.
    Silence,
    /// The same value for too long.
    Stuck,
    /// A jump from one reading to the next.
    Rate,
    /// Restless: the values jump about more than they do.
    Noise,
    /// Unlike the days before at this time of day.
    Season,
    /// The last hours lie apart from the last week.
    Level,
    /// Far from the rolling baseline.
    Z,
    /// Unlike the readings of its group, all quantities together.
    Forest,
    /// At a level that no day of the last week had around this time.
    Novelty,
}

impl Rule {
    /// As in the API, the config and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Silence => "silence",
            Self::Stuck => "stuck",
            Self::Rate => "rate",
            Self::Noise => "noise",
            Self::Season => "season",
            Self::Level => "level",
            Self::Z => "z",
            Self::Forest => "forest",
            Self::Novelty => "novelty",
        }
    }

    /// All rules.
    pub const ALL: [Self; 10] = [
        Self::Range,
        Self::Silence,
        Self::Stuck,
        Self::Rate,
        Self::Noise,
        Self::Season,
        Self::Level,
        Self::Z,
        Self::Forest,
        Self::Novelty,
    ];
}

impl Rule {
    /// Of several that fire at once, the one with the smallest number is the explanation. What is
    /// restless jumps as well; but of sensors that send `often` one jump makes the hour rough. The
    /// forest has its say last.
    pub const fn place(self, often: bool) -> u8 {
        match self {
            Self::Noise if !often => Self::Rate as u8,
            Self::Rate if !often => Self::Noise as u8,
            Self::Novelty => Self::Forest as u8,
            Self::Forest => Self::Novelty as u8,
            Self::Range
            | Self::Silence
            | Self::Stuck
            | Self::Rate
            | Self::Noise
            | Self::Season
            | Self::Level
            | Self::Z => self as u8,
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Over the line.
    Warn,
    /// At least twice the line.
    Critical,
}

impl Severity {
    /// As in the API and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Critical => "critical",
        }
    }
}

/// What the forest looks at, for each quantity; all in the sensor's own spreads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Distance from the baseline of the window.
    Distance,
    /// Distance from the short-term expectation.
    Deviation,
    /// From the reading before.
    Step,
    /// Present noise over usual noise, as a natural logarithm.
    Noise,
}

impl Feature {
    /// In the order of a row.
    pub const ALL: [Self; 4] = [Self::Distance, Self::Deviation, Self::Step, Self::Noise];

    /// As in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Distance => "distance",
            Self::Deviation => "deviation",
            Self::Step => "step",
            Self::Noise => "noise",
        }
    }
}

/// A feature that made the forest find a reading strange.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Of which quantity.
    pub quantity: QuantityId,
    /// What of it.
    pub feature: Feature,
    /// As it is.
    pub value: f32,
    /// Nine tenths of the readings that the forest learned from are between this … (of a step that led
    /// to a season: where its line is)
    pub low: f32,
    /// … and this.
    pub high: f32,
}

/// One rule that fired, with everything that explains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which rule.
    pub rule: Rule,
    /// On which quantity; `None` if it concerns the reading as a whole.
    pub quantity: Option<QuantityId>,
    /// What was seen: the value in its unit, for silence the gap in seconds, for the forest its
    /// score.
    pub observed: f64,
    /// What was to be expected, in the same unit.
    pub expected: f64,
    /// The last value (in the same unit) that would have passed.
    pub line: f64,
    /// Observed distance ÷ distance of the line; ≥ 1.
    pub ratio: f64,
    /// Since when it has been so.
    pub since_ms: i64,
    /// Of the forest: the two features that say most, the stronger one first. Of a season that a jump
    /// told of: the step.
    pub evidence: Vec<Evidence>,
}

impl Verdict {
    /// If a jump told of this: did it lead back, from values that were away?
    pub fn jumped_back(&self) -> Option<bool> {
        let step = self
            .evidence
            .first()
            .filter(|_| self.rule == Rule::Season)?;
        let away = self.observed - self.expected;
        Some(f64::from(step.value) * away < 0.0)
    }

    /// The rule whose line was crossed: a jump over the line of rate may tell of a season.
    pub fn judged_by(&self) -> Rule {
        match self.jumped_back() {
            Some(_) => Rule::Rate,
            None => self.rule,
        }
    }

    /// Of several that fire at once, the one with the smallest place is the explanation: see
    /// [`Rule::place`]. What a jump tells of comes before the jump.
    pub fn place(&self, often: bool) -> (u8, bool) {
        let rule = self.judged_by();
        (rule.place(often), rule == self.rule)
    }

    /// Critical at twice the line.
    pub fn severity(&self) -> Severity {
        if self.ratio >= 2.0 {
            Severity::Critical
        } else {
            Severity::Warn
        }
    }
}

/// Ratio of a value that cannot be true: three times over any line.
const IMPLAUSIBLE: f64 = 3.0;

/// An incident ends below this share of the line that began it: what swings about a line is one
/// episode.
const NEAR: f64 = 0.7;

/// Rules that are over their lines, or not far below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Near(u16);

impl Near {
    /// Is `rule` among them?
    pub fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u16) != 0
    }

    fn look(&mut self, rule: Rule, ratio: f64) {
        if ratio >= NEAR {
            self.0 |= 1 << rule as u16;
        }
    }
}

impl FromIterator<Rule> for Near {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        let mut near = Self::default();
        for rule in rules {
            near.look(rule, 1.0);
        }
        near
    }
}

/// Judges one value, with lines `margin` times as high as measured, and those of season, level (and
/// novelty) and z `shared` times as high as that, because others went the same way. Returns the largest ratio of the
/// rules, adds what fired to `fired` and what was close to `near`.
pub fn judge(
    look: &Look,
    time_ms: i64,
    catalogue: &Catalogue,
    (margin, shared): (f64, [f64; 3]),
    fired: &mut Vec<Verdict>,
    near: &mut Near,
) -> f64 {
    if !look.plausible {
        near.look(Rule::Range, IMPLAUSIBLE);
        let line = catalogue.get(look.quantity).map_or(0.0, |spec| {
            if look.value < spec.min {
                spec.min
            } else {
                spec.max
            }
        });
        fired.push(Verdict {
            rule: Rule::Range,
            quantity: Some(look.quantity),
            observed: look.value,
            expected: look.expected,
            line,
            ratio: IMPLAUSIBLE,
            since_ms: time_ms,
            evidence: Vec::new(),
        });
        return IMPLAUSIBLE;
    }
    let mut worst = 0.0_f64;
    // Nearly always there is nothing to explain.
    let mut add = |judged_by: Rule, ratio: f64, explain: &dyn Fn() -> Verdict| {
        worst = worst.max(ratio);
        near.look(judged_by, ratio);
        if ratio >= 1.0 {
            let verdict = explain();
            // The season may fire beside the jump that has told of it.
            let known =
                |one: &Verdict| (one.rule, one.quantity) == (verdict.rule, verdict.quantity);
            if !fired.iter().any(known) {
                fired.push(verdict);
            }
        }
    };
    if let Some((length, line, since_ms)) = look.stuck {
        let line = line * margin;
        let ratio = f64::from(length) / line;
        add(Rule::Stuck, ratio, &|| Verdict {
            rule: Rule::Stuck,
            quantity: Some(look.quantity),
            observed: f64::from(length),
            expected: look.value,
            line,
            ratio,
            since_ms,
            evidence: Vec::new(),
        });
    }
    let distances = [
        (Rule::Rate, look.rate, 1.0),
        (Rule::Noise, look.rough, 1.0),
        (Rule::Season, look.slow.season, shared[0]),
        (Rule::Level, look.slow.level, shared[1]),
        (Rule::Novelty, look.slow.novelty, shared[1]),
    ];
    for (rule, distance, shared) in distances {
        let Some(mut distance) = distance else {
            continue;
        };
        distance = distance.with_margin(margin * shared);
        let ratio = distance.ratio();
        if let (Rule::Rate, Some(jump)) = (rule, look.jump) {
            add(rule, ratio, &|| jumped(look, time_ms, distance, jump));
        }
        add(rule, ratio, &|| {
            let (observed, line) = match rule {
                Rule::Noise => (distance.distance, distance.line),
                // What was seen may stand for more than this reading.
                _ => (
                    distance.expected + distance.distance,
                    distance.expected + distance.distance.signum() * distance.line,
                ),
            };
            Verdict {
                rule,
                quantity: Some(look.quantity),
                observed: f64::from(observed),
                expected: f64::from(distance.expected),
                line: f64::from(line),
                ratio,
                since_ms: time_ms,
                evidence: Vec::new(),
            }
        });
    }
    if look.warm {
        let line = z_line(look.usual_z) * margin * shared[2];
        let ratio = look.z.abs() / line;
        add(Rule::Z, ratio, &|| Verdict {
            rule: Rule::Z,
            quantity: Some(look.quantity),
            observed: look.value,
            expected: look.mean,
            line: look.mean + look.z.signum() * line * look.spread,
            ratio,
            since_ms: look.frozen_since.unwrap_or(time_ms),
            evidence: Vec::new(),
        });
    }
    worst
}

/// A step back to the usual is not what is strange, but where the values were before; and one that
/// the other quantities share is one of the air: strange is where it leads. The step is the evidence.
fn jumped(look: &Look, time_ms: i64, rate: Distance, jump: Jump) -> Verdict {
    let (observed, expected) = (f64::from(jump.observed), f64::from(jump.expected));
    let line = look
        .slow
        .season
        .map_or(0.0, |season| f64::from(season.line));
    Verdict {
        rule: Rule::Season,
        quantity: Some(look.quantity),
        observed,
        expected,
        line: expected + (observed - expected).signum() * line,
        ratio: rate.ratio(),
        since_ms: time_ms - i64::from(jump.away_ms),
        evidence: vec![Evidence {
            quantity: look.quantity,
            feature: Feature::Step,
            value: rate.distance / rate.scale,
            low: -rate.line / rate.scale,
            high: rate.line / rate.scale,
        }],
    }
}

/// Where the rules `z` and `season` let a value lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// Lowest value, in the quantity's unit.
    pub low: f32,
    /// Highest value.
    pub high: f32,
}

/// Where a value may lie: within the line of `z` around the rolling baseline, and within that of
/// `season` around what is usual at this time of day (where what counts is the mean of ten minutes).
/// `margin`: by how much a rule's line is higher than measured. `None` while neither has learned
/// enough to speak. Steps, noise, runs of equal values and the means of hours are judged beside it, and
/// where the others of a group go the same way, more is let pass.
pub fn band(look: &Look, margin: impl Fn(Rule) -> f64) -> Option<Band> {
    if !look.plausible {
        return None;
    }
    let season = look.slow.season.map(|season| {
        let season = season.with_margin(margin(Rule::Season));
        let (expected, line) = (season.expected, season.line);
        (expected - line, expected + line)
    });
    let z = look.warm.then(|| {
        let line = z_line(look.usual_z) * margin(Rule::Z) * look.spread;
        #[allow(clippy::cast_possible_truncation, reason = "for people to look at")]
        let bounds = ((look.mean - line) as f32, (look.mean + line) as f32);
        bounds
    });
    let (low, high) = match (season, z) {
        (Some(season), Some(z)) => {
            let (low, high) = (season.0.max(z.0), season.1.min(z.1));
            // After a change they may contradict each other: then the narrower one is right.
            if low <= high { (low, high) } else { season }
        }
        (one, other) => one.or(other)?,
    };
    Some(Band { low, high })
}

/// Judges the gap before a reading: a backlog that has a hole in it, or a sensor that comes back.
pub fn judge_gap(
    gap_ms: i64,
    expected_ms: i64,
    time_ms: i64,
    line: SilenceLine,
    fired: &mut Vec<Verdict>,
) -> f64 {
    let line_ms = line.ms(expected_ms);
    if gap_ms <= line_ms {
        // Being on time is no evidence of anything: silence adds to a score only when it fires.
        return 0.0;
    }
    let silence = silence_verdict(gap_ms, expected_ms, line_ms, time_ms - gap_ms);
    let ratio = silence.ratio;
    fired.push(silence);
    ratio
}

/// The verdict on a sensor that is silent now.
pub fn judge_silence(silence: &Silence, now_ms: i64, line: SilenceLine) -> Verdict {
    let line_ms = line.ms(silence.expected_ms);
    silence_verdict(
        now_ms - silence.since_ms,
        silence.expected_ms,
        line_ms,
        silence.since_ms,
    )
}

fn silence_verdict(gap_ms: i64, expected_ms: i64, line_ms: i64, since_ms: i64) -> Verdict {
    let seconds = |ms: i64| ms as f64 / 1000.0;
    Verdict {
        rule: Rule::Silence,
        quantity: None,
        observed: seconds(gap_ms),
        expected: seconds(expected_ms),
        line: seconds(line_ms),
        // Silence is certain, not a matter of degree: as urgent as twice a line.
        ratio: 2.0 * gap_ms as f64 / line_ms.max(1) as f64,
        since_ms,
        evidence: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use vigie_wire::TEMPERATURE;

    use super::*;

    fn look(value: f64) -> Look {
        let catalogue = Catalogue::default();
        let spec = catalogue.get(TEMPERATURE).unwrap();
        Look {
            plausible: spec.is_plausible(value),
            mean: 21.0,
            spread: 0.5,
            z: (value - 21.0) / 0.5,
            expected: 21.2,
            residual_spread: 0.1,
            residual_z: (value - 21.2) / 0.1,
            usual_z: 2.0,
            warm: true,
            residual_warm: true,
            rate: Some(Distance::new(21.2, value - 21.2, 0.1, 0.6)),
            ..Look::of(TEMPERATURE, value)
        }
    }

    fn judged(look: &Look, margin: f64) -> (f64, Vec<Verdict>) {
        let mut fired = Vec::new();
        let worst = judge(
            look,
            7,
            &Catalogue::default(),
            (margin, [1.0; 3]),
            &mut fired,
            &mut Near::default(),
        );
        (worst, fired)
    }

    fn check(value: f64, expect: &[(Rule, Severity)]) {
        let (worst, fired) = judged(&look(value), 1.0);
        let got: Vec<_> = fired
            .iter()
            .map(|verdict| (verdict.rule, verdict.severity()))
            .collect();
        assert_eq!(got, expect, "{value}");
        assert_eq!(worst >= 1.0, !expect.is_empty(), "{value}: 1 is the line");
    }

    #[test]
    fn lines_and_severities() {
        check(21.2, &[]);
        check(21.7, &[]);
        check(21.9, &[(Rule::Rate, Severity::Warn)]);
        check(22.5, &[(Rule::Rate, Severity::Critical)]);
        check(
            25.1,
            &[(Rule::Rate, Severity::Critical), (Rule::Z, Severity::Warn)],
        );
        check(-127.0, &[(Rule::Range, Severity::Critical)]);
        check(85.0, &[(Rule::Range, Severity::Critical)]);
    }

    /// Nothing in it is reported for its level, and something right outside of it is.
    #[test]
    fn the_band_ends_where_rules_begin() {
        let mut at = look(21.2);
        at.rate = None;
        at.slow.season = Some(Distance::new(22.0, -0.8, 0.5, 2.5));
        let margin = |rule| if rule == Rule::Z { 2.0 } else { 1.0 };
        // z: 21 ± 8 × 0.5; season: 22 ± 2.5.
        let got = band(&at, |_| 1.0).unwrap();
        assert_eq!((got.low, got.high), (19.5, 24.5));
        at.slow.season = None;
        let got = band(&at, margin).unwrap();
        assert_eq!((got.low, got.high), (13.0, 29.0));
        for (value, fires) in [(28.9, false), (29.1, true)] {
            let mut at = look(value);
            at.rate = None;
            let (_, fired) = judged(&at, 2.0);
            assert_eq!(!fired.is_empty(), fires, "{value}");
        }
        // The baseline has not followed yet: the season knows better.
        at.slow.season = Some(Distance::new(40.0, 0.0, 0.5, 2.5));
        let got = band(&at, |_| 1.0).unwrap();
        assert_eq!((got.low, got.high), (37.5, 42.5));
        (at.slow.season, at.warm) = (None, false);
        assert_eq!(band(&at, |_| 1.0), None);
    }

    #[test]
    fn the_line_is_the_last_value_that_passes() {
        let (_, fired) = judged(&look(30.0), 1.0);
        let lines: Vec<f64> = fired.iter().map(|verdict| verdict.line).collect();
        assert!(
            (lines[0] - 21.8).abs() < 1e-5 && (lines[1] - 25.0).abs() < 1e-9,
            "{lines:?}"
        );
    }

    #[test]
    fn a_jump_tells_where_the_values_were_or_where_they_are() {
        // (step, the value that is away, for how long) → back?
        for (value, observed, away_ms, back) in [(20.0, 22.5, 5, true), (24.0, 24.0, 0, false)] {
            let mut look = look(value);
            look.jump = Some(Jump {
                observed,
                expected: 20.5,
                away_ms,
            });
            // It fires as well: one verdict of each rule is enough.
            look.slow.season = Some(Distance::new(20.5, 3.0, 0.5, 2.5));
            let (worst, fired) = judged(&look, 1.0);
            let rules: Vec<Rule> = fired.iter().map(|verdict| verdict.rule).collect();
            assert_eq!(rules, [Rule::Season, Rule::Rate], "the jump beside it");
            let told = &fired[0];
            assert!((told.observed - f64::from(observed)).abs() < 1e-9);
            assert_eq!((told.expected, told.line), (20.5, 23.0));
            assert_eq!(told.since_ms, 7 - i64::from(away_ms));
            assert_eq!(told.jumped_back(), Some(back));
            assert_eq!(told.judged_by(), Rule::Rate);
            assert!(
                (told.ratio - fired[1].ratio).abs() < 1e-9,
                "the jump is over its line"
            );
            assert!((worst - fired[1].ratio).abs() < 1e-9);
            assert!(told.place(false) < fired[1].place(false));
            assert_eq!(fired[1].jumped_back(), None);
        }
        // Below its line it tells of nothing.
        let mut quiet = look(21.3);
        quiet.jump = Some(Jump {
            observed: 25.0,
            expected: 21.2,
            away_ms: 5,
        });
        assert_eq!(judged(&quiet, 1.0).1, []);
    }

    #[test]
    fn a_smaller_budget_raises_the_lines() {
        let (strict, _) = judged(&look(21.9), 1.0);
        let (lenient, fired) = judged(&look(21.9), 1.9);
        assert!(strict > 1.0 && lenient < 1.0 && fired.is_empty());
        assert!((strict / lenient - 1.9).abs() < 1e-5);
        // What cannot be true is not a matter of degree.
        assert_eq!(judged(&look(85.0), 1.9).1.len(), 1);
    }

    #[test]
    fn a_level_that_is_new_at_this_time_fires_from_its_line_on_unless_its_peers_are_there_too() {
        for (distance, shared, fires) in [
            (2.0, 1.0, true),
            (-2.0, 1.0, true),
            (1.998, 1.0, false),
            (3.0, 2.0, false),
            (4.0, 2.0, true),
        ] {
            let mut look = look(21.2);
            look.slow.novelty = Some(Distance::new(18.0, distance, 1.6, 2.0));
            let (mut fired, mut near) = (Vec::new(), Near::default());
            let margins = (1.0, [1.0, shared, 1.0]);
            let catalogue = Catalogue::default();
            let worst = judge(&look, 7, &catalogue, margins, &mut fired, &mut near);
            assert!((worst - distance.abs() / 2.0 / shared).abs() < 1e-6);
            assert!(near.has(Rule::Novelty), "{distance}: close at least");
            assert_eq!(fired.len(), usize::from(fires), "{distance}");
            for verdict in fired {
                assert_eq!(verdict.rule, Rule::Novelty);
                assert!((verdict.observed - 18.0 - distance).abs() < 1e-6);
                let line = 18.0 + distance.signum() * 2.0 * shared;
                assert!((verdict.line - line).abs() < 1e-6, "{verdict:?}");
            }
        }
        // As an explanation it comes after the others that know the value, and before the forest.
        let places = [Rule::Z, Rule::Novelty, Rule::Forest].map(|rule| rule.place(false));
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn a_run_of_equal_values_tells_its_length_and_its_beginning() {
        let mut look = look(21.2);
        look.stuck = Some((30, 20.0, 3));
        let (_, fired) = judged(&look, 1.0);
        let stuck = &fired[0];
        assert_eq!((stuck.rule, stuck.since_ms), (Rule::Stuck, 3));
        assert!((stuck.ratio - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_gap_is_silence_only_beyond_the_line() {
        let line = SilenceLine {
            gaps: 4.0,
            least_ms: 5_000,
        };
        let mut fired = Vec::new();
        judge_gap(40_000, 10_000, 100_000, line, &mut fired);
        judge_gap(4_000, 500, 100_000, line, &mut fired);
        assert!(fired.is_empty());
        judge_gap(60_000, 10_000, 100_000, line, &mut fired);
        assert_eq!((fired[0].rule, fired[0].since_ms), (Rule::Silence, 40_000));
        assert_eq!(fired[0].severity(), Severity::Critical);
    }
}
