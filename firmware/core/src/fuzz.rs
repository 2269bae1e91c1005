//! No input from outside makes the node panic: what a broker sends, what a time server answers, what
//! is typed, what lies in flash. `VIGIE_NODE_FUZZ` says how many inputs each of the two gets that come from
//! the network; the others a fifth of that.

use alloc::vec::Vec;

use embassy_futures::block_on;
use vigie_wire::node::Config;

use crate::clock::Clock;
use crate::console;
use crate::entry::tests::sample;
use crate::entry::{Entry, Names};
use crate::session::{self, Over};
use crate::sntp;
use crate::testing::{Nothing, Scripted, config, shared};

/// Bits that look random (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 24).unwrap() % end.max(1)
    }

    /// Random bytes, or one of the examples with some of its bytes changed, cut or doubled.
    fn input(&mut self, examples: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = examples[self.below(examples.len())].clone();
        match self.below(8) {
            0 => {
                bytes = (0..self.below(64))
                    .map(|_| self.next().to_le_bytes()[5])
                    .collect();
            }
            1 => bytes.truncate(self.below(bytes.len() + 1)),
            2 => {
                let more = examples[self.below(examples.len())].clone();
                bytes.extend(more);
            }
            _ => {}
        }
        for _ in 0..self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let place = self.below(bytes.len());
            bytes[place] = match self.below(3) {
                0 => 0xff,
                1 => bytes[place] ^ (1 << self.below(8)),
                _ => self.next().to_le_bytes()[5],
            };
        }
        bytes
    }
}

fn inputs() -> u64 {
    std::env::var("VIGIE_NODE_FUZZ").map_or(200_000, |text| text.parse().unwrap())
}

fn run(inputs: u64, seed: u64, examples: &[Vec<u8>], mut check: impl FnMut(&[u8])) {
    let mut chance = Chance(seed);
    for _ in 0..inputs {
        check(&chance.input(examples));
    }
}

#[test]
fn any_reply_of_a_time_server_is_survived() {
    let nonce = *b"12345678";
    let mut good = [0; 48];
    good[0] = 0x24;
    good[1] = 1;
    good[24..32].copy_from_slice(&nonce);
    good[40..].fill(0xaa);
    run(inputs(), 11, &[good.to_vec()], |bytes| {
        if let Ok(utc_ms) = sntp::reply(nonce, bytes) {
            let mut clock = Clock::default();
            clock.set(utc_ms, 5);
            let _any = clock.utc(u64::MAX);
        }
    });
}

#[test]
fn any_line_at_the_console_is_survived() {
    let lines = ["show", "set broker.port 1884", "reboot", "set wifi.ssid é"];
    let lines = lines.map(|line| line.as_bytes().to_vec());
    run(inputs() / 5, 13, &lines, |bytes| {
        let _any = console::parse(bytes);
    });
}

#[test]
fn any_config_partition_is_survived() {
    run(inputs() / 5, 17, &[config().encode().unwrap()], |bytes| {
        let _any = Config::decode(bytes);
        // Past the checksum.
        if let Some(body) = bytes.get(16..) {
            let mut sealed = bytes[..16].to_vec();
            sealed[8..12].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
            sealed[12..16].copy_from_slice(&vigie_wire::node::crc32(body).to_le_bytes());
            sealed.extend_from_slice(body);
            if let Ok(config) = Config::decode(&sealed) {
                let _any = config.encode();
            }
        }
    });
}

#[test]
fn any_entry_in_flash_is_survived() {
    let names = Names::new();
    run(inputs() / 5, 19, &[sample(7).encode()], |bytes| {
        if let Some(entry) = Entry::decode(bytes) {
            let _any = entry.payload(Some(0), &names);
        }
    });
}

#[test]
fn anything_that_a_broker_says_is_survived() {
    let connack = |rest: &[u8]| {
        let mut packet = alloc::vec![0x20, u8::try_from(rest.len()).unwrap()];
        packet.extend_from_slice(rest);
        packet
    };
    let welcome = connack(&[0, 0, 0]);
    let with = |more: &[u8]| [welcome.clone(), more.to_vec()].concat();
    let examples = [
        with(&[0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 4, 0, 3, 0x10, 0]),
        // Receive maximum, no retained messages, a packet size, a reason, a property.
        connack(&[0, 0, 5, 0x21, 0, 3, 0x25, 0]),
        connack(&[0, 0x87, 7, 0x1f, 0, 4, b'n', b'o', b'p', b'e']),
        connack(&[1, 0, 12, 0x27, 0, 0, 0, 90, 0x26, 0, 1, b'a', 0, 1, b'b']),
        with(&[0x40, 8, 0, 1, 0x97, 4, 0x1f, 0, 1, b'x', 0xd0, 0]),
        with(&[0xe0, 2, 0x8e, 0]),
        with(&[
            0x30, 7, 0, 1, b't', 0, b'a', b'b', b'c', 0x90, 4, 0, 1, 0, 1,
        ]),
        with(&[
            0x32, 6, 0, 1, b't', 0, 9, 0, 0x50, 2, 0, 1, 0x62, 2, 0, 1, 0x70, 2, 0, 1,
        ]),
        with(&[0xf0, 2, 0x18, 0, 0x40, 0xff, 0xff, 0xff, 0x7f]),
    ];
    let shared = shared();
    let mut accepted = 0_u64;
    let mut seq = 0;
    run(inputs(), 23, &examples, |says| {
        block_on(async {
            while shared.queue.lock().await.len() < 4 {
                shared.queue.lock().await.push(sample(seq)).await;
                seq += 1;
            }
        });
        let link = Scripted {
            says: says.to_vec(),
            at: 0,
        };
        let over = block_on(session::run(&shared, &Nothing, link, false));
        assert!(matches!(over, Over::Lost(_)), "{over:?}");
        shared.board.said.borrow_mut().clear();
        accepted += u64::from(shared.link.take() == "connected");
    });
    assert!(
        accepted > inputs() / 20,
        "only {accepted} got past the CONNACK"
    );
}
