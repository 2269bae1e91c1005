//! What several tests of the core need: a board whose time runs when somebody waits, and a broker
//! that says what it was told to.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use std::convert::Infallible;

use embassy_futures::block_on;
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use embedded_io_async::{ErrorType, Read, Write};
use vigie_wire::node::Config;

use crate::clock::Clock;
use crate::emulated::EmulatedFlash;
use crate::entry::Names;
use crate::facts::Facts;
use crate::queue::Queue;
use crate::shared::{Counters, Due, Shared};
use crate::{Board, DialError, Network, Target, Timing};

/// A small config.
pub(crate) fn config() -> Config {
    let text = "id = \"C001\"\n[broker]\nhost = \"x\"\ntls = false\n[[sensor]]\nkind = \"sht3x\"\n";
    vigie_wire::node::file::parse(text, &|_| Err("none".into())).unwrap()
}

/// What the parts of a node share.
pub(crate) fn shared() -> Shared<TestBoard, EmulatedFlash, EmulatedFlash> {
    Shared {
        board: TestBoard::default(),
        timing: Timing::default(),
        fingerprint: crate::settings::fingerprint(&config()),
        config: config(),
        queue: Mutex::new(block_on(Queue::open(EmulatedFlash::erased(4))).unwrap()),
        facts: Mutex::new(block_on(Facts::open(EmulatedFlash::erased(2))).unwrap()),
        clock: Cell::new(Clock::default()),
        counters: Counters::default(),
        link: RefCell::default(),
        due: Due::default(),
        fresh: Signal::new(),
        boot: *b"aaaaaaaa",
        names: Names::new(),
    }
}

/// A broker that says what it was given, whatever it is asked, and then hangs up.
pub(crate) struct Scripted {
    pub(crate) says: Vec<u8>,
    pub(crate) at: usize,
}

impl ErrorType for Scripted {
    type Error = Infallible;
}

impl Read for Scripted {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let rest = &self.says[self.at..];
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

impl Write for Scripted {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        Ok(buf.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

pub(crate) struct Nothing;

impl Network for Nothing {
    type Link<'n> = Scripted;

    async fn dial(&self, _: Target<'_>) -> Result<Scripted, DialError> {
        Err(DialError::NoNetwork)
    }

    async fn exchange(&self, _: &str, _: u16, _: &[u8], _: &mut [u8]) -> Result<usize, DialError> {
        Err(DialError::NoNetwork)
    }
}

/// Time runs when somebody waits.
#[derive(Default)]
pub(crate) struct TestBoard {
    now_ms: Cell<u64>,
    pub(crate) said: RefCell<Vec<String>>,
}

impl Board for TestBoard {
    fn uptime_ms(&self) -> u64 {
        self.now_ms.get()
    }

    async fn sleep_until(&self, uptime_ms: u64) {
        self.now_ms.set(self.now_ms.get().max(uptime_ms));
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(4);
    }

    fn print(&self, line: &str) {
        self.said.borrow_mut().push(line.into());
    }
}

/// Time stands still while there is something to do; then it is at once what somebody waits for. In ms.
#[derive(Default)]
pub(crate) struct Timed {
    now: Cell<u64>,
    /// The soonest that somebody waits for.
    next: Cell<u64>,
    /// When the watchdog was fed last.
    pub(crate) fed: Cell<u64>,
    /// The longest that it waited for it.
    pub(crate) hungry: Cell<u64>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Timed {
    pub(crate) fn at(now_ms: u64) -> Self {
        Self {
            now: Cell::new(now_ms),
            fed: Cell::new(now_ms),
            ..Self::default()
        }
    }

    /// What `work` gives, unless it takes longer than until then.
    pub(crate) fn run<T>(&self, until_ms: u64, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        while self.now.get() <= until_ms {
            self.next.set(u64::MAX);
            if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
                return Some(done);
            }
            if !woken.0.swap(false, Ordering::SeqCst) {
                self.now.set(self.next.get());
            }
        }
        None
    }
}

impl Board for &Timed {
    fn uptime_ms(&self) -> u64 {
        self.now.get()
    }

    async fn sleep_until(&self, uptime_ms: u64) {
        poll_fn(|_| {
            if self.now.get() >= uptime_ms {
                return Poll::Ready(());
            }
            self.next.set(self.next.get().min(uptime_ms));
            Poll::Pending
        })
        .await;
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(4);
    }

    fn print(&self, _: &str) {}

    fn feed(&self) {
        let waited_ms = self.now.get() - self.fed.replace(self.now.get());
        self.hungry.set(self.hungry.get().max(waited_ms));
    }
}

/// A broker that takes everything, and a time server.
#[derive(Default)]
pub(crate) struct Taking {
    pub(crate) is_up: Cell<bool>,
    /// What the time server says, in s since 1970; nothing: it does not answer.
    pub(crate) utc_s: Cell<Option<u32>>,
    /// Topics and payloads, in the order in which they came.
    pub(crate) taken: RefCell<Vec<(String, Vec<u8>)>>,
}

/// A connection to it.
pub(crate) struct Door<'t> {
    broker: &'t Taking,
    heard: Vec<u8>,
    says: VecDeque<u8>,
}

impl Network for &Taking {
    type Link<'n>
        = Door<'n>
    where
        Self: 'n;

    async fn dial(&self, _: Target<'_>) -> Result<Door<'_>, DialError> {
        if !self.is_up.get() {
            return Err(DialError::NoNetwork);
        }
        Ok(Door {
            broker: self,
            heard: Vec::new(),
            says: VecDeque::new(),
        })
    }

    async fn exchange(
        &self,
        _: &str,
        _: u16,
        request: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, DialError> {
        const UNIX_EPOCH: u32 = 2_208_988_800;
        let utc_s = self.utc_s.get().ok_or(DialError::NoNetwork)?;
        reply[..48].fill(0);
        reply[..2].copy_from_slice(&[0x24, 1]);
        reply[24..32].copy_from_slice(&request[40..48]);
        reply[40..44].copy_from_slice(&(utc_s + UNIX_EPOCH).to_be_bytes());
        Ok(48)
    }
}

impl Door<'_> {
    /// The next whole packet: its first byte, and what follows its length.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut length, mut begin) = (0, 1);
        loop {
            let byte = *self.heard.get(begin)?;
            length |= usize::from(byte & 0x7f) << (7 * (begin - 1));
            begin += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = self.heard.get(begin..begin + length)?.to_vec();
        let head = self.heard[0];
        self.heard.drain(..begin + length);
        Some((head, body))
    }

    fn answer(&mut self, head: u8, body: &[u8]) {
        match head >> 4 {
            // CONNECT
            1 => self.says.extend([0x20, 3, 0, 0, 0]),
            // PUBLISH, once at least, without properties
            3 => {
                assert_eq!(head & 0b110, 0b010);
                let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (topic, rest) = body[2..].split_at(length);
                assert_eq!(rest[2], 0);
                let topic = String::from_utf8(topic.to_vec()).unwrap();
                let mut taken = self.broker.taken.borrow_mut();
                taken.push((topic, rest[3..].to_vec()));
                self.says.extend([0x40, 2, rest[0], rest[1]]);
            }
            // PINGREQ
            12 => self.says.extend([0xd0, 0]),
            // DISCONNECT
            14 => {}
            other => panic!("packet {other}"),
        }
    }
}

impl ErrorType for Door<'_> {
    type Error = Infallible;
}

impl Read for Door<'_> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        if self.says.is_empty() {
            core::future::pending::<()>().await;
        }
        let length = self.says.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(self.says.drain(..length)) {
            *to = from;
        }
        Ok(length)
    }
}

impl Write for Door<'_> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        self.heard.extend_from_slice(buf);
        while let Some((head, body)) = self.packet() {
            self.answer(head, &body);
        }
        Ok(buf.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
