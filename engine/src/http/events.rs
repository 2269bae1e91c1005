//! `/api/v1/events`: what changes, as server-sent events, to all who watch at once.
//!
//! One task looks at what HTTP can read anyway, four times a second, and only while somebody
//! watches: the stream does nothing for it. What it finds is written once and shared by all
//! watchers. Bounded: so many watchers, so many frames ahead of the slowest one, so many sensors in
//! a frame. Whoever falls behind is told to read everything anew; whoever reads nothing is let go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper::body::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{Instant, timeout};

/// Watchers at a time; each holds a connection.
pub(super) const WATCHERS: usize = 32;
/// Frames that the slowest watcher may be behind: a quarter of a minute.
const FRAMES: usize = 64;
/// Sensors in a frame at most; the others are in the next one.
pub(super) const SENSORS: usize = 2_000;
/// Between two looks at the newest readings.
pub(super) const EVERY: Duration = Duration::from_millis(250);
/// When nothing happens, a comment after this time keeps proxies from hanging up.
const QUIET: Duration = Duration::from_secs(15);
/// A watcher that takes nothing for this long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// After this a watcher has to come again, and show that it still may.
const LONGEST: Duration = Duration::from_hours(1);
/// In front of everything: a browser tries again after this many milliseconds.
const OPENING: &[u8] = b"retry: 2000\n\n";
const COMMENT: &[u8] = b": still here\n\n";

/// One event. `data` is JSON, which has no line ends.
pub(super) fn frame(event: &str, data: &str) -> Bytes {
    debug_assert!(!data.contains(['\n', '\r']), "it would end the event");
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}

/// Bounds on watchers, for tests to lower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) quiet: Duration,
    pub(super) stalled: Duration,
    pub(super) longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            quiet: QUIET,
            stalled: STALLED,
            longest: LONGEST,
        }
    }
}

/// Whether a connection is one that watches, which lasts longer than others.
pub(super) type Watching = watch::Sender<bool>;

/// Where all watchers listen.
#[derive(Debug)]
pub(super) struct Hub {
    frames: broadcast::Sender<Bytes>,
    places: Arc<Semaphore>,
    arrived: Notify,
    /// What somebody new has to know: the last frame of each kind that tells a whole.
    wholes: Mutex<Vec<(&'static str, Bytes)>>,
    pub(super) patience: Patience,
}

impl Hub {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            frames: broadcast::channel(FRAMES).0,
            places: Arc::new(Semaphore::new(WATCHERS)),
            arrived: Notify::new(),
            wholes: Mutex::default(),
            patience,
        }
    }

    fn wholes(&self) -> MutexGuard<'_, Vec<(&'static str, Bytes)>> {
        self.wholes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many watch.
    pub(super) fn watchers(&self) -> usize {
        self.frames.receiver_count()
    }

    /// Waits until somebody watches.
    pub(super) async fn watched(&self) {
        self.wholes().clear();
        while self.watchers() == 0 {
            self.arrived.notified().await;
        }
    }

    /// Tells all watchers.
    pub(super) fn tell(&self, frame: Bytes) {
        // Nobody watches any more: the next look ends it.
        let _ = self.frames.send(frame);
    }

    /// Tells all watchers how something is as a whole, if that is news; newcomers are told first.
    pub(super) fn tell_whole(&self, event: &'static str, data: &str) {
        let frame = frame(event, data);
        let mut wholes = self.wholes();
        match wholes.iter_mut().find(|(known, _)| *known == event) {
            Some((_, known)) if *known == frame => return,
            Some((_, known)) => *known = frame.clone(),
            None => wholes.push((event, frame.clone())),
        }
        // Under the lock: a newcomer gets it either way, and an older one never after a newer one.
        self.tell(frame);
    }

    /// Another watcher, if there is a place; the stream is the body of its answer.
    pub(super) fn watch(
        self: &Arc<Self>,
        hello: Bytes,
        watching: Watching,
    ) -> Option<impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + Sync + use<>>
    {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (frames, wholes) = {
            let wholes = self.wholes();
            (self.frames.subscribe(), wholes.clone())
        };
        self.arrived.notify_one();
        let (sender, mut receiver) = mpsc::channel(1);
        let first = [Bytes::from_static(OPENING), hello];
        let first = first.into_iter().chain(wholes.into_iter().map(|(_, f)| f));
        watching.send_replace(true);
        let patience = self.patience;
        let first: Vec<Bytes> = first.collect();
        tokio::spawn(async move {
            serve(first, frames, sender, patience).await;
            leave(place, &watching);
        });
        Some(stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|next| next.map(Ok))
        }))
    }
}

/// The place is free, and the connection an ordinary one again.
fn leave(place: OwnedSemaphorePermit, watching: &Watching) {
    drop(place);
    watching.send_replace(false);
}

/// Hands frames to one watcher until it is gone, stalls, or has to come again.
async fn serve(
    first: Vec<Bytes>,
    mut frames: broadcast::Receiver<Bytes>,
    sender: mpsc::Sender<Bytes>,
    patience: Patience,
) {
    let end = Instant::now() + patience.longest;
    for frame in first {
        if !matches!(
            timeout(patience.stalled, sender.send(frame)).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
    while Instant::now() < end {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = timeout(patience.quiet, frames.recv()) => next,
        };
        let frame = match next {
            Err(_quiet) => Bytes::from_static(COMMENT),
            Ok(Ok(frame)) => frame,
            Ok(Err(RecvError::Lagged(frames))) => {
                frame("lost", &format!("{{\"frames\":{frames}}}"))
            }
            Ok(Err(RecvError::Closed)) => return,
        };
        if !matches!(
            timeout(patience.stalled, sender.send(frame)).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn hub(patience: Patience) -> Arc<Hub> {
        Arc::new(Hub::new(patience))
    }

    fn text(frame: Option<Result<Bytes, std::convert::Infallible>>) -> Option<String> {
        frame.map(|Ok(bytes)| String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn watching() -> (Watching, watch::Receiver<bool>) {
        watch::channel(false)
    }

    #[test]
    fn an_event_is_two_lines_and_an_empty_one() {
        let bytes = frame("readings", r#"{"a":1}"#);
        assert_eq!(&bytes[..], b"event: readings\ndata: {\"a\":1}\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_hear_the_whole_first_and_then_what_is_new() {
        let hub = hub(Patience::default());
        let (sender, is_watching) = watching();
        hub.tell_whole("incidents", "[]");
        hub.tell_whole("incidents", "[1]");
        let mut stream = std::pin::pin!(hub.watch(frame("hello", "{}"), sender).unwrap());
        assert!(*is_watching.borrow());
        assert_eq!(text(stream.next().await).unwrap(), "retry: 2000\n\n");
        assert_eq!(
            text(stream.next().await).unwrap(),
            "event: hello\ndata: {}\n\n"
        );
        let incidents = text(stream.next().await).unwrap();
        assert_eq!(incidents, "event: incidents\ndata: [1]\n\n");
        // The same again is no news.
        hub.tell_whole("incidents", "[1]");
        hub.tell(frame("readings", "{}"));
        assert_eq!(
            text(stream.next().await).unwrap(),
            "event: readings\ndata: {}\n\n"
        );
        // Time is paused: it goes on to the next thing that waits for it.
        assert_eq!(text(stream.next().await).unwrap(), ": still here\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_behind_is_told_and_who_reads_nothing_is_let_go() {
        let hub = hub(Patience::default());
        let (sender, mut is_watching) = watching();
        let mut stream = std::pin::pin!(hub.watch(frame("hello", "{}"), sender).unwrap());
        for _ in 0..2 {
            stream.next().await;
        }
        for number in 0..FRAMES * 3 {
            hub.tell(frame("readings", &number.to_string()));
        }
        let mut lost = 0;
        for _ in 0..4 {
            let frame = text(stream.next().await).unwrap();
            lost += usize::from(frame.starts_with("event: lost"));
        }
        assert_eq!(lost, 1, "told once, then it goes on with what is there");
        // Nothing is read from now on.
        let begun = Instant::now();
        is_watching.wait_for(|watching| !watching).await.unwrap();
        assert!(begun.elapsed() >= STALLED);
        assert_eq!(hub.watchers(), 0);
        assert_eq!(hub.places.available_permits(), WATCHERS);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_places_and_one_that_leaves_makes_room() {
        let hub = hub(Patience::default());
        let mut streams = Vec::new();
        for _ in 0..WATCHERS {
            streams.push(hub.watch(frame("hello", "{}"), watching().0).unwrap());
        }
        assert!(hub.watch(frame("hello", "{}"), watching().0).is_none());
        streams.pop();
        while hub.places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(hub.watch(frame("hello", "{}"), watching().0).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_hour_a_watcher_has_to_come_again() {
        let hub = hub(Patience::default());
        let mut stream = std::pin::pin!(hub.watch(frame("hello", "{}"), watching().0).unwrap());
        let begun = Instant::now();
        while stream.next().await.is_some() {}
        assert!((LONGEST..LONGEST * 2).contains(&begun.elapsed()));
    }
}
