//! Warnings and errors that repeat themselves: each is told once, and after a while how often it came
//! again. What happens a thousand times a second must neither fill a disk nor hide what happens once.
//!
//! The crate tracing-throttle does as much in eleven thousand lines, with policies, a circuit breaker and
//! an async runtime for its summaries; two hundred without them are easier to answer for.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use xxhash_rust::xxh3::Xxh3Default;

/// For this long after the first one.
const WINDOW: Duration = Duration::from_mins(1);
/// Of one place in the code so many different lines are told within that time.
const VARIANTS: usize = 10;
/// Of a line so many bytes are kept.
const KEPT: usize = 300;
/// Where counts come from: they are never held back themselves.
pub(super) const TARGET: &str = "repeats";

/// Holds repeated lines back. Clones share what they know.
#[derive(Clone)]
pub(super) struct Repeats(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Something is new, or the end has come.
    news: Condvar,
    window: Duration,
}

#[derive(Default)]
struct Inner {
    /// As many as there are places in the code.
    sites: HashMap<Identifier, Site>,
    ended: bool,
}

/// One place in the code that warned lately.
struct Site {
    level: Level,
    until: Instant,
    lines: Vec<Line>,
    /// Lines beyond those.
    others: u64,
}

struct Line {
    hash: u64,
    text: String,
    again: u64,
}

impl Site {
    fn is_new(&mut self, text: Text) -> bool {
        let hash = text.hash.finish();
        if let Some(line) = self.lines.iter_mut().find(|line| line.hash == hash) {
            line.again += 1;
            return false;
        }
        if self.lines.len() == VARIANTS {
            self.others += 1;
            return false;
        }
        self.lines.push(Line {
            hash,
            text: text.kept,
            again: 0,
        });
        true
    }

    /// Says what was held back.
    fn tell(&self) {
        let say = |again: u64, text: &str| {
            if self.level == Level::ERROR {
                tracing::error!(target: TARGET, again, "again: {text}");
            } else {
                tracing::warn!(target: TARGET, again, "again: {text}");
            }
        };
        for line in self.lines.iter().filter(|line| line.again > 0) {
            say(line.again, &line.text);
        }
        if let Some(last) = self.lines.last().filter(|_| self.others > 0) {
            say(self.others, &format!("others like: {}", last.text));
        }
    }
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self::within(WINDOW)
    }

    fn within(window: Duration) -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            news: Condvar::new(),
            window,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells counts when their time is over; returns after [`Repeats::end`], when all are told.
    pub(super) fn run(&self) {
        let mut inner = self.lock();
        loop {
            let (ended, now) = (inner.ended, Instant::now());
            let over = inner
                .sites
                .extract_if(|_, site| ended || site.until <= now)
                .map(|(_, site)| site);
            let over: Vec<Site> = over.collect();
            if !over.is_empty() {
                // What is said comes back to this layer.
                drop(inner);
                over.iter().for_each(Site::tell);
                inner = self.lock();
                continue;
            }
            if ended {
                return;
            }
            let next = inner.sites.values().map(|site| site.until).min();
            inner = match next {
                None => {
                    let woken = self.0.news.wait(inner);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(until) => {
                    let pause = until.saturating_duration_since(now);
                    let woken = self.0.news.wait_timeout(inner, pause);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.0.news.notify_all();
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // What has a count of its own knows better than this when it is news.
        let counts = metadata.fields().field("more").is_some();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET || counts {
            return true;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let until = Instant::now() + self.0.window;
        let mut inner = self.lock();
        let mut first = false;
        let site = inner.sites.entry(metadata.callsite()).or_insert_with(|| {
            first = true;
            Site {
                level: *metadata.level(),
                until,
                lines: Vec::new(),
                others: 0,
            }
        });
        let is_new = site.is_new(text);
        if first {
            self.0.news.notify_all();
        }
        is_new
    }
}

/// What a line says: all of it as a number, and its beginning.
#[derive(Default)]
struct Text {
    hash: Xxh3Default,
    kept: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        field.name().hash(&mut self.hash);
        let begun = !self.kept.is_empty();
        // Neither can fail.
        let _infallible = match field.name() {
            "message" => write!(self, "{value:?}"),
            name if begun => write!(self, " {name}={value:?}"),
            name => write!(self, "{name}={value:?}"),
        };
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.hash.write(part.as_bytes());
        let mut left = KEPT.saturating_sub(self.kept.len()).min(part.len());
        while !part.is_char_boundary(left) {
            left -= 1;
        }
        self.kept.push_str(&part[..left]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Where the lines go.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Paper {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is written when `job` logs, and the counts are told at the end.
    fn lines(window: Duration, job: impl FnOnce(&Repeats)) -> Vec<String> {
        let (repeats, paper) = (Repeats::within(window), Paper::default());
        let format = tracing_subscriber::fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_writer(paper.clone());
        let subscriber = tracing_subscriber::registry()
            .with(repeats.clone())
            .with(format);
        tracing::subscriber::with_default(subscriber, || {
            job(&repeats);
            repeats.end();
            repeats.run();
        });
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn what_repeats_itself_is_one_line_and_a_count() {
        let lines = lines(WINDOW, |_| {
            for more in 0..1000 {
                tracing::error!(why = "full", "cannot write");
                tracing::info!("no warning");
                tracing::warn!(more, "no warning: it counts by itself");
            }
            tracing::warn!("cannot write");
        });
        let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        assert_eq!(count("no warning"), 2000);
        let rest: Vec<&String> = lines
            .iter()
            .filter(|line| !line.contains("no warn"))
            .collect();
        assert_eq!(rest.len(), 3, "{rest:#?}");
        assert!(rest[0].starts_with("ERROR") && rest[0].contains("cannot write why=\"full\""));
        assert!(rest[1].starts_with("WARN"), "{rest:#?}");
        assert_eq!(
            rest[2],
            "ERROR repeats: again: cannot write why=\"full\" again=999"
        );
    }

    #[test]
    fn one_place_with_ever_new_words_is_counted_beyond_ten() {
        let lines = lines(WINDOW, |_| {
            for peer in 0..500 {
                tracing::warn!(peer, "{}", "ö".repeat(400));
            }
        });
        assert_eq!(lines.len(), VARIANTS + 1);
        assert!(
            lines[VARIANTS].contains("others like: ööö"),
            "{}",
            lines[VARIANTS]
        );
        assert!(lines[VARIANTS].ends_with("again=490"));
        assert!(lines[VARIANTS].len() < KEPT + 60);
    }

    /// The count comes by itself, and then the line is news again.
    #[test]
    fn after_its_time_a_line_is_told_again() {
        let lines = lines(Duration::ZERO, |repeats| {
            for _ in 0..2 {
                let warn = || tracing::warn!("hot");
                warn();
                warn();
                let sites = || repeats.lock().sites.len();
                assert_eq!(sites(), 1);
                let dispatch = tracing::dispatcher::get_default(Clone::clone);
                let background = repeats.clone();
                let told = std::thread::spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || background.run());
                });
                let patience = Instant::now() + Duration::from_secs(10);
                while sites() > 0 {
                    assert!(Instant::now() < patience, "it waits for the end");
                    std::thread::yield_now();
                }
                repeats.end();
                told.join().unwrap();
                repeats.lock().ended = false;
            }
        });
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[1].ends_with("again=1") && lines[3].ends_with("again=1"));
    }
}
