//! The small picture in a mail: the last hours of a sensor, as a PNG. Without words, which stand
//! beside it where programs for the blind find them. Pure.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, StrokeDash,
    Transform,
};

/// Width and height in pixels: twice what is shown, for sharp screens.
const SIZE: (u32, u32) = (1200, 400);
/// Pixels between the edge and the curve.
const MARGIN: f32 = 16.0;
/// A pause between readings longer than so many usual ones breaks the curve.
const GAP: i64 = 5;
const MINUTE: i64 = 60_000;

/// A reading of one quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
    /// In the unit of the quantity.
    pub value: f64,
    /// Was it out of line?
    pub anomaly: bool,
}

/// What is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Chart<'a> {
    /// In the order of time. Those that are not finite, or outside of `span`, are left out.
    pub points: &'a [Point],
    /// From and to, ms since 1970 UTC.
    pub span: (i64, i64),
    /// When the incident began: what comes after it is tinted.
    pub since_ms: i64,
    /// What was expected, in the unit of the quantity.
    pub expected: Option<f64>,
}

/// Lowest and highest value that is drawn; `None`: there is none.
pub fn extent(points: &[Point], span: (i64, i64)) -> Option<(f64, f64)> {
    let values = shown(points, span).map(|point| point.value);
    values.fold(None, |extent, value| match extent {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

fn shown(points: &[Point], (from_ms, to_ms): (i64, i64)) -> impl Iterator<Item = &Point> {
    points.iter().filter(move |point| {
        (from_ms..=to_ms).contains(&point.at_ms) && point.value.abs() < f64::from(f32::MAX)
    })
}

/// A PNG of 1200 × 400 pixels, to be shown at half of that; `None`: there is nothing to draw.
pub fn png(chart: &Chart<'_>) -> Option<Vec<u8>> {
    let frame = Frame::around(chart)?;
    let mut picture = Pixmap::new(SIZE.0, SIZE.1)?;
    picture.fill(Color::WHITE);
    let from = frame.x(chart.since_ms).clamp(0.0, SIZE.0 as f32);
    if let Some(rect) = Rect::from_ltrb(from, 0.0, SIZE.0 as f32, SIZE.1 as f32) {
        picture.fill_rect(
            rect,
            &paint(0xd9, 0x30, 0x25, 0x18),
            Transform::identity(),
            None,
        );
    }
    frame.grid(&mut picture);
    if let Some(expected) = chart.expected.filter(|value| frame.holds(*value)) {
        let y = frame.y(expected);
        let dash = StrokeDash::new(vec![10.0, 8.0], 0.0);
        line(
            &mut picture,
            (0.0, y, SIZE.0 as f32, y),
            &paint(0x5f, 0x63, 0x68, 0xff),
            dash,
        );
    }
    frame.curve(&mut picture, chart);
    picture.encode_png().ok()
}

fn paint(red: u8, green: u8, blue: u8, alpha: u8) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, alpha);
    paint.anti_alias = true;
    paint
}

fn line(
    picture: &mut Pixmap,
    (x1, y1, x2, y2): (f32, f32, f32, f32),
    paint: &Paint<'_>,
    dash: Option<StrokeDash>,
) {
    let mut path = PathBuilder::new();
    path.move_to(x1, y1);
    path.line_to(x2, y2);
    let stroke = Stroke {
        width: 2.0,
        dash,
        ..Stroke::default()
    };
    if let Some(path) = path.finish() {
        picture.stroke_path(&path, paint, &stroke, Transform::identity(), None);
    }
}

/// Where times and values are on the picture.
struct Frame {
    span: (i64, i64),
    low: f64,
    high: f64,
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a place on a picture of some hundred pixels"
)]
impl Frame {
    fn around(chart: &Chart<'_>) -> Option<Self> {
        let (mut low, mut high) = extent(chart.points, chart.span)?;
        // What was expected, as long as it does not press the curve flat.
        if let Some(expected) = chart.expected.filter(|value| value.is_finite())
            && low - (high - low) <= expected
            && expected <= high + (high - low)
        {
            (low, high) = (low.min(expected), high.max(expected));
        }
        if low >= high {
            // A flat curve runs through the middle.
            let room = (low.abs() * 0.01).max(0.5);
            (low, high) = (low - room, high + room);
        }
        (chart.span.0 < chart.span.1).then_some(Self {
            span: chart.span,
            low,
            high,
        })
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn x(&self, at_ms: i64) -> f32 {
        let (from, to) = (self.span.0 as f64, self.span.1 as f64);
        ((at_ms as f64 - from) / (to - from) * f64::from(SIZE.0)) as f32
    }

    fn y(&self, value: f64) -> f32 {
        let height = f64::from(SIZE.1) - 2.0 * f64::from(MARGIN);
        let share = (self.high - value) / (self.high - self.low);
        MARGIN + (share * height) as f32
    }

    /// Three lines across, and one at every full hour, quarter of a day or day.
    fn grid(&self, picture: &mut Pixmap) {
        let grey = paint(0xe3, 0xe6, 0xea, 0xff);
        let (width, height) = (SIZE.0 as f32, SIZE.1 as f32);
        for share in [0.25, 0.5, 0.75] {
            let y = height * share;
            line(picture, (0.0, y, width, y), &grey, None);
        }
        let length = self.span.1 - self.span.0;
        let steps = [10, 60, 6 * 60, 24 * 60, 7 * 24 * 60].map(|minutes| minutes * MINUTE);
        let Some(step) = steps.into_iter().find(|step| length / step <= 12) else {
            return;
        };
        let mut at_ms = (self.span.0.div_euclid(step) + 1) * step;
        while at_ms < self.span.1 {
            let x = self.x(at_ms);
            line(picture, (x, 0.0, x, height), &grey, None);
            at_ms += step;
        }
    }

    fn curve(&self, picture: &mut Pixmap, chart: &Chart<'_>) {
        let points: Vec<&Point> = shown(chart.points, self.span).collect();
        let broken_after = GAP.saturating_mul(usual_pause(&points));
        let mut path = PathBuilder::new();
        let mut dots = PathBuilder::new();
        let mut before: Option<i64> = None;
        for (at, point) in points.iter().enumerate() {
            let (x, y) = (self.x(point.at_ms), self.y(point.value));
            let joined = |other: Option<i64>| {
                other.is_some_and(|ms| (point.at_ms - ms).abs() <= broken_after)
            };
            if joined(before) {
                path.line_to(x, y);
            } else {
                path.move_to(x, y);
                if !joined(points.get(at + 1).map(|next| next.at_ms)) {
                    dots.push_circle(x, y, 3.0);
                }
            }
            before = Some(point.at_ms);
        }
        let blue = paint(0x0b, 0x57, 0xd0, 0xff);
        let stroke = Stroke {
            width: 3.0,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        if let Some(path) = path.finish() {
            picture.stroke_path(&path, &blue, &stroke, Transform::identity(), None);
        }
        let mut red = PathBuilder::new();
        for point in points.iter().filter(|point| point.anomaly) {
            red.push_circle(self.x(point.at_ms), self.y(point.value), 6.0);
        }
        for (dots, paint) in [(dots, blue), (red, paint(0xd9, 0x30, 0x25, 0xff))] {
            if let Some(dots) = dots.finish() {
                let rule = FillRule::Winding;
                picture.fill_path(&dots, &paint, rule, Transform::identity(), None);
            }
        }
    }
}

/// The median pause between readings, ms.
fn usual_pause(points: &[&Point]) -> i64 {
    let mut pauses: Vec<i64> = points
        .windows(2)
        .map(|pair| pair[1].at_ms - pair[0].at_ms)
        .collect();
    pauses.sort_unstable();
    pauses.get(pauses.len() / 2).copied().unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn point(at_ms: i64, value: f64) -> Point {
        Point {
            at_ms,
            value,
            anomaly: false,
        }
    }

    fn drawn(points: &[Point], since_ms: i64) -> Option<Pixmap> {
        let chart = Chart {
            points,
            span: (0, 6 * HOUR),
            since_ms,
            expected: None,
        };
        Some(Pixmap::decode_png(&png(&chart)?).unwrap())
    }

    /// Is there anything of the curve's colour in the column?
    fn is_blue(picture: &Pixmap, x: u32) -> bool {
        (0..SIZE.1).any(|y| {
            let pixel = picture.pixel(x, y).unwrap();
            pixel.blue() > 0xa0 && pixel.red() < 0x60
        })
    }

    #[test]
    fn a_gap_is_not_bridged_and_lonely_readings_are_dots() {
        let minutes = |range: std::ops::Range<i64>| range.map(|m| point(m * 60_000, 20.0));
        let mut points: Vec<Point> = minutes(0..120).chain(minutes(240..350)).collect();
        points.insert(120, point(180 * 60_000, 20.0));
        let picture = drawn(&points, 6 * HOUR).unwrap();
        for (x, expected) in [
            (200, true),
            (500, false),
            (600, true),
            (700, false),
            (1000, true),
        ] {
            assert_eq!(is_blue(&picture, x), expected, "column {x}");
        }
    }

    #[test]
    fn anomalies_are_red_and_the_incident_is_tinted() {
        let mut points: Vec<Point> = (0..360).map(|m| point(m * 60_000, 20.0)).collect();
        points[300] = Point {
            anomaly: true,
            ..point(300 * 60_000, 30.0)
        };
        let picture = drawn(&points, 3 * HOUR).unwrap();
        let spike = picture.pixel(1000, 16).unwrap();
        assert!(spike.red() > 0xc0 && spike.green() < 0x60, "{spike:?}");
        let [calm, incident] = [305, 905].map(|x| picture.pixel(x, 40).unwrap().green());
        assert!(calm == 0xff && incident < calm, "{calm} {incident}");
    }

    #[test]
    fn whatever_comes_is_drawn_or_nothing_is() {
        assert!(drawn(&[], 0).is_none());
        assert!(drawn(&[point(-1, 1.0), point(5, f64::NAN)], 0).is_none());
        assert!(drawn(&[point(5, 1.0)], 0).is_some());
        let wild = [1e30, -1e30, 0.0, f64::INFINITY, 1e300, f64::MIN];
        let wild: Vec<Point> = (0..).zip(wild).map(|(at, v)| point(at * HOUR, v)).collect();
        assert!(drawn(&wild, i64::MIN).is_some());
        let day: Vec<Point> = (0..21_600)
            .map(|s: i64| point(s * 1000, (s * 7919 % 1000) as f64))
            .collect();
        let chart = Chart {
            points: &day,
            span: (0, 6 * HOUR),
            since_ms: 0,
            expected: Some(500.0),
        };
        let bytes = png(&chart).unwrap();
        assert!(bytes.len() < 100_000, "{} bytes", bytes.len());
    }
}
