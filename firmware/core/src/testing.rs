//! What several tests of the core need: a board whose time runs when somebody waits, and a broker
//! that says what it was told to.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
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
use crate::shared::{Counters, Shared};
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
