//! A PC as the core sees it: time, chance, text, and what is typed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use node_core::{Board, Keys};
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Time, chance and text. Clones are the same board.
#[derive(Debug, Clone)]
pub(crate) struct PcBoard(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    /// Stands before what it says, if there are several.
    name: String,
    acknowledged: Cell<u64>,
    news: Notify,
}

impl PcBoard {
    pub(crate) fn new(name: String) -> Self {
        Self(Rc::new(Inner {
            begun: Instant::now(),
            name,
            acknowledged: Cell::new(0),
            news: Notify::new(),
        }))
    }

    /// Waits until so many readings were acknowledged; for ever without a number.
    pub(crate) async fn until_acknowledged(&self, count: Option<u64>) {
        let count = count.unwrap_or(u64::MAX);
        while self.0.acknowledged.get() < count {
            self.0.news.notified().await;
        }
    }
}

impl Board for PcBoard {
    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, uptime_ms: u64) {
        // A year is for ever, and an `Instant` can say it.
        let most_ms = self.uptime_ms().saturating_add(31_536_000_000);
        let uptime = Duration::from_millis(uptime_ms.min(most_ms));
        tokio::time::sleep_until(self.0.begun + uptime).await;
    }

    fn random(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }

    fn print(&self, line: &str) {
        if self.0.name.is_empty() {
            crate::say(line);
        } else {
            crate::say(&format!("{}: {line}", self.0.name));
        }
    }

    fn acknowledged(&self) {
        self.0.acknowledged.set(self.0.acknowledged.get() + 1);
        self.0.news.notify_waiters();
        self.0.news.notify_one();
    }
}

/// What is typed on standard input goes to every node.
#[derive(Debug)]
pub(crate) struct Typed {
    text: RefCell<Vec<u8>>,
    news: Notify,
}

impl Typed {
    /// Reads standard input from now on, in a thread of its own: a read cannot be interrupted.
    pub(crate) fn standard_input() -> Rc<Self> {
        let typed = Rc::new(Self {
            text: RefCell::default(),
            news: Notify::new(),
        });
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<String>(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        let heard = Rc::clone(&typed);
        tokio::task::spawn_local(async move {
            while let Some(line) = receiver.recv().await {
                let mut text = heard.text.borrow_mut();
                text.extend_from_slice(line.as_bytes());
                text.push(b'\n');
                heard.news.notify_waiters();
            }
        });
        typed
    }

    /// The console of one node, with what is typed from now on.
    pub(crate) fn keys(self: &Rc<Self>) -> PcKeys {
        PcKeys {
            read: self.text.borrow().len(),
            typed: Rc::clone(self),
        }
    }
}

/// The console of one node.
#[derive(Debug)]
pub(crate) struct PcKeys {
    typed: Rc<Typed>,
    read: usize,
}

impl Keys for PcKeys {
    async fn read(&mut self, bytes: &mut [u8]) -> usize {
        loop {
            let news = self.typed.news.notified();
            {
                let text = self.typed.text.borrow();
                let fresh = text.get(self.read..).unwrap_or_default();
                if !fresh.is_empty() {
                    let length = fresh.len().min(bytes.len());
                    let (to, from) = (bytes.get_mut(..length), fresh.get(..length));
                    if let (Some(to), Some(from)) = (to, from) {
                        to.copy_from_slice(from);
                    }
                    self.read += length;
                    return length;
                }
            }
            news.await;
        }
    }
}

/// What a time server that has the PC's clock would answer; gives its length.
pub(crate) fn system_clock(request: &[u8], reply: &mut [u8]) -> usize {
    const UNIX_EPOCH_SINCE_1900: u64 = 2_208_988_800;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that others ask"
    )]
    let now = std::time::SystemTime::now();
    let since_1970 = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut packet = [0; 48];
    // Version 4, mode 4: server; stratum 1.
    packet[0] = 0b00_100_100;
    packet[1] = 1;
    if let Some(nonce) = request.get(40..48) {
        packet[24..32].copy_from_slice(nonce);
    }
    // Seconds in the upper half; beyond 2036 the era is dropped, as on the wire.
    let seconds = (since_1970.as_secs() + UNIX_EPOCH_SINCE_1900) << 32;
    let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
    packet[40..].copy_from_slice(&(seconds | fraction).to_be_bytes());
    let length = packet.len().min(reply.len());
    if let (Some(to), Some(from)) = (reply.get_mut(..length), packet.get(..length)) {
        to.copy_from_slice(from);
    }
    length
}
