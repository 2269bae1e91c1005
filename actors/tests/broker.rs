//! The source at an external broker against a scripted broker: every pitfall of reconnecting
//! clients, with both versions of MQTT.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it does not expect"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use vigie_actors::clock::SystemClock;
use vigie_actors::ingest::broker::{
    Broker, Config, Link, LinkState, Protocol, Subscriptions, Surroundings,
};
use vigie_actors::ingest::intake::{Delivery, Intake};
use vigie_actors::metrics::{BoardConfig, BrokerMetrics, Metrics};
use vigie_actors::reading::{Arrival, Quarantined};
use vigie_actors::stats::hearing::Hearing;

const PATIENCE: Duration = Duration::from_secs(10);
const VERSIONS: [Protocol; 2] = [Protocol::V5, Protocol::V311];

// ---- The broker ----

/// One connection, seen from the broker.
struct Peer {
    stream: TcpStream,
    v5: bool,
    connect: Vec<u8>,
    /// Packet id and filters of the SUBSCRIBE.
    subscribed: Vec<String>,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_elapsed| panic!("{what}: not within {PATIENCE:?}"))
}

async fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap();
        length >>= 7;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

impl Peer {
    /// Takes a connection up to its CONNECT.
    async fn connect(listener: &TcpListener) -> Self {
        let (mut stream, _) = within("a connection", listener.accept()).await.unwrap();
        let (first, connect) = within("CONNECT", read_packet(&mut stream)).await.unwrap();
        assert_eq!(first, 0x10);
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            v5: connect[6] == 5,
            connect,
            subscribed: Vec::new(),
        }
    }

    /// Takes a connection, and its subscriptions within a second.
    async fn accept(listener: &TcpListener, session_present: bool) -> Self {
        let mut peer = Self::connect(listener).await;
        peer.connack(session_present, 0).await;
        let begun = Instant::now();
        loop {
            let (first, body) = peer.next().await;
            match first {
                0x82 => {
                    peer.grant(&body, 1).await;
                    assert!(begun.elapsed() < Duration::from_secs(1));
                    return peer;
                }
                0xa2 => peer.unsubscribed(&body).await,
                other => panic!("packet {other:#x} before SUBSCRIBE"),
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        // The client may have gone.
        let _gone = self.stream.write_all(bytes).await;
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        within("a packet", read_packet(&mut self.stream))
            .await
            .unwrap()
    }

    async fn connack(&mut self, session_present: bool, code: u8) {
        let flags = u8::from(session_present);
        let body: &[u8] = if self.v5 {
            &[flags, code, 0]
        } else {
            &[flags, code]
        };
        self.write(&packet(0x20, body)).await;
    }

    async fn grant(&mut self, subscribe: &[u8], code: u8) {
        let mut at = if self.v5 { 3 } else { 2 };
        while at < subscribe.len() {
            let length = usize::from(u16::from_be_bytes([subscribe[at], subscribe[at + 1]]));
            let filter = &subscribe[at + 2..at + 2 + length];
            self.subscribed
                .push(String::from_utf8(filter.to_vec()).unwrap());
            at += 3 + length;
        }
        let mut body = subscribe[..2].to_vec();
        if self.v5 {
            body.push(0);
        }
        body.extend(vec![code; self.subscribed.len()]);
        self.write(&packet(0x90, &body)).await;
    }

    async fn unsubscribed(&mut self, unsubscribe: &[u8]) {
        let at = if self.v5 { 3 } else { 2 };
        let filter = String::from_utf8(unsubscribe[at + 2..].to_vec()).unwrap();
        self.subscribed.push(format!("-{filter}"));
        let mut body = unsubscribe[..2].to_vec();
        if self.v5 {
            body.extend([0, 0]);
        }
        self.write(&packet(0xb0, &body)).await;
    }

    async fn publish(&mut self, id: u16, payload: &[u8]) {
        let topic = b"sensors/C001/reading";
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic);
        body.extend(id.to_be_bytes());
        if self.v5 {
            body.push(0);
        }
        body.extend(payload);
        self.write(&packet(0x32, &body)).await;
    }

    /// PUBACKs that come within `time`; pings are answered.
    async fn pubacks(&mut self, time: Duration) -> Vec<u16> {
        let mut ids = Vec::new();
        let end = Instant::now() + time;
        while let Ok(Some((first, body))) =
            tokio::time::timeout_at(end, read_packet(&mut self.stream)).await
        {
            match first {
                0x40 => ids.push(u16::from_be_bytes([body[0], body[1]])),
                0xc0 => self.write(&[0xd0, 0]).await,
                other => panic!("packet {other:#x} instead of PUBACK"),
            }
        }
        ids
    }

    async fn expect_pubacks(&mut self, expected: &[u16]) {
        let mut ids = Vec::new();
        while ids.len() < expected.len() {
            let (first, body) = self.next().await;
            if first == 0xc0 {
                self.write(&[0xd0, 0]).await;
                continue;
            }
            assert_eq!(first, 0x40, "PUBACK");
            ids.push(u16::from_be_bytes([body[0], body[1]]));
        }
        assert_eq!(ids, expected, "in order of receipt");
    }
}

// ---- The source ----

/// Deliveries that wait until the test answers them.
type Held = Arc<Mutex<Vec<Delivery>>>;

struct Kept(Mutex<Vec<String>>);

struct Shared(Arc<Kept>);

impl Subscriptions for Shared {
    fn recall(&self) -> Vec<String> {
        self.0.0.lock().unwrap().clone()
    }

    fn remember(&self, filters: &[String]) {
        *self.0.0.lock().unwrap() = filters.to_vec();
    }
}

struct Bench {
    listener: TcpListener,
    held: Held,
    link: Arc<Link>,
    hearing: Arc<Hearing>,
    metrics: BrokerMetrics,
    kept: Arc<Kept>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

fn config(addr: SocketAddr, protocol: Protocol) -> Config {
    Config {
        host: Some(addr.ip().to_string()),
        port: addr.port(),
        tls: false,
        protocol,
        receive_maximum: 16,
        ..Config::default()
    }
}

impl Bench {
    async fn start(protocol: Protocol) -> Self {
        Self::start_with(protocol, |_| {}).await
    }

    async fn start_with(protocol: Protocol, change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(listener.local_addr().unwrap(), protocol);
        change(&mut config);
        let held = Held::default();
        let holding = Arc::clone(&held);
        let intake = Intake::new(10_000, move |delivery| {
            holding.lock().unwrap().push(delivery);
            Ok(())
        });
        let registry = prometheus::Registry::new();
        let metrics = Metrics::new(&registry, &Arc::default(), BoardConfig::default())
            .unwrap()
            .broker;
        let hearing = Arc::new(Hearing::since(0));
        let link = Arc::new(Link::new("scripted".into(), Arc::clone(&hearing)));
        let kept = Arc::new(Kept(Mutex::new(vec!["old/#".into()])));
        let decode = |topic: &str, payload: &[u8], now: i64| {
            assert!(payload != b"panic", "the decoder panics");
            Arrival::Quarantine(Quarantined::new("test", String::new(), topic, payload, now))
        };
        let surroundings = Surroundings {
            intake,
            decode: Arc::new(decode),
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            link: Arc::clone(&link),
            subscriptions: Box::new(Shared(Arc::clone(&kept))),
        };
        let broker = Broker::new(config, "vigie-test".into(), surroundings).unwrap();
        let (stop, stopped) = watch::channel(false);
        Self {
            listener,
            held,
            link,
            hearing,
            metrics,
            kept,
            stop,
            running: tokio::spawn(broker.run(stopped)),
        }
    }

    /// Waits until so many messages were delivered, and takes the deliveries.
    async fn deliveries(&self, messages: usize) -> Vec<Delivery> {
        let mut taken: Vec<Delivery> = Vec::new();
        within("deliveries", async {
            while taken.iter().map(|one| one.arrivals.len()).sum::<usize>() < messages {
                taken.append(&mut self.held.lock().unwrap());
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        taken
    }

    /// The problem that the link shows, once it holds `words`.
    async fn problem(&self, words: &str) -> String {
        within(words, async {
            loop {
                if let LinkState::Down(Some(why)) = self.link.state()
                    && why.contains(words)
                {
                    return why;
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .flat_map(|delivery| &delivery.arrivals)
        .map(|arrival| match arrival {
            Arrival::Quarantine(message) => String::from_utf8(message.payload.clone()).unwrap(),
            Arrival::Reading(_) => panic!("the decoder makes no readings"),
        })
        .collect()
}

/// Messages of a connection that died are not acknowledged on the next one, where their packet ids
/// belong to others; neither those that were delivered nor those that were not yet read.
#[tokio::test]
async fn no_stale_acknowledgement_goes_out() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        for round in 0..20 {
            let mut peer = Peer::accept(&bench.listener, true).await;
            for id in 1..=12 {
                peer.publish(id, b"old").await;
            }
            sleep(Duration::from_millis(rand::thread_rng().gen_range(0..20))).await;
            drop(peer);
            let mut peer = Peer::accept(&bench.listener, false).await;
            let old: Vec<Delivery> = bench.held.lock().unwrap().drain(..).collect();
            for delivery in old {
                delivery.complete();
            }
            for id in 1..=3 {
                peer.publish(id, b"new").await;
            }
            let taken = bench.deliveries(3).await;
            let early = peer.pubacks(Duration::from_millis(20)).await;
            assert_eq!(early, [0_u16; 0], "round {round}: nothing is durable yet");
            assert!(payloads(&taken).iter().all(|payload| payload == "new"));
            taken.into_iter().for_each(Delivery::complete);
            peer.expect_pubacks(&[1, 2, 3]).await;
            let late = peer.pubacks(Duration::from_millis(10)).await;
            assert_eq!(late, [0_u16; 0], "round {round}: each once");
        }
        assert!(bench.metrics.stale.get() > 0);
    }
}

/// On every CONNACK, with and without a session; what the config does not name any more is ended.
#[tokio::test]
async fn subscribes_on_every_connection() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        assert_eq!(
            bench.hearing.since_ms(),
            i64::MAX,
            "nothing can be heard yet"
        );
        let peer = Peer::accept(&bench.listener, true).await;
        assert_eq!(peer.subscribed, ["-old/#", "sensors/+/reading"]);
        within("the link", async {
            while bench.link.state() != LinkState::Up {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_ne!(bench.hearing.since_ms(), i64::MAX);
        assert_eq!(*bench.kept.0.lock().unwrap(), ["sensors/+/reading"]);
        drop(peer);
        let peer = Peer::accept(&bench.listener, false).await;
        assert_eq!(peer.subscribed, ["sensors/+/reading"]);
        assert_eq!(bench.metrics.session_present.get(), 0);
        drop(peer);
        let peer = Peer::accept(&bench.listener, true).await;
        assert_eq!(peer.subscribed, ["sensors/+/reading"]);
    }
}

/// A large message is taken in on one connection, and the next one arrives.
#[tokio::test]
async fn a_large_message_stops_nothing() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let mut peer = Peer::accept(&bench.listener, false).await;
        if protocol == Protocol::V5 {
            // Property 0x27, Maximum Packet Size: 1 MiB and room for topic and properties.
            let maximum = (1_u32 << 20) + 66 * 1024;
            let announced = [&[0x27][..], &maximum.to_be_bytes()].concat();
            assert!(peer.connect.windows(5).any(|bytes| bytes == announced));
        }
        peer.publish(1, &vec![b'x'; 20 * 1024]).await;
        peer.publish(2, &vec![b'x'; 1024 * 1024]).await;
        peer.publish(3, b"panic").await;
        peer.publish(4, b"good").await;
        let taken = bench.deliveries(4).await;
        assert_eq!(payloads(&taken).pop().unwrap(), "good");
        taken.into_iter().for_each(Delivery::complete);
        peer.expect_pubacks(&[1, 2, 3, 4]).await;
        assert_eq!(
            bench
                .metrics
                .connects
                .with_label_values(&["accepted"])
                .get(),
            1
        );
    }
}

/// The broker is told how much it may send ahead, and the connection lives on while nothing is
/// acknowledged.
#[tokio::test]
async fn the_receive_maximum_is_announced_and_the_connection_lives_on() {
    let short = |config: &mut Config| config.keep_alive = "5s".parse().unwrap();
    let bench = Bench::start_with(Protocol::V5, short).await;
    let mut peer = Peer::accept(&bench.listener, false).await;
    assert!(peer.connect.windows(3).any(|bytes| bytes == [0x21, 0, 16]));
    for id in 1..=16 {
        peer.publish(id, b"one").await;
    }
    let taken = bench.deliveries(16).await;
    let during = peer.pubacks(Duration::from_secs(8)).await;
    assert_eq!(during, [0_u16; 0]);
    taken.into_iter().for_each(Delivery::complete);
    let all: Vec<u16> = (1..=16).collect();
    peer.expect_pubacks(&all).await;
    assert_eq!(
        bench
            .metrics
            .connects
            .with_label_values(&["accepted"])
            .get(),
        1
    );
}

/// Whatever becomes durable first, acknowledgements leave in order of receipt.
#[tokio::test]
async fn acknowledges_in_order_of_receipt() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let mut peer = Peer::accept(&bench.listener, false).await;
        peer.publish(7, b"first").await;
        let first = bench.deliveries(1).await;
        peer.publish(3, b"second").await;
        let second = bench.deliveries(1).await;
        second.into_iter().for_each(Delivery::complete);
        let early = peer.pubacks(Duration::from_millis(50)).await;
        assert_eq!(early, [0_u16; 0]);
        first.into_iter().for_each(Delivery::complete);
        peer.expect_pubacks(&[7, 3]).await;
    }
}

/// What the stream refuses is not acknowledged; a new connection gets it again.
#[tokio::test]
async fn refused_readings_come_again() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let mut peer = Peer::accept(&bench.listener, false).await;
        peer.publish(1, b"one").await;
        drop(bench.deliveries(1).await);
        assert!(read_packet(&mut peer.stream).await.is_none(), "closed");
        let mut peer = Peer::accept(&bench.listener, true).await;
        peer.publish(1, b"one").await;
        let again = bench.deliveries(1).await;
        again.into_iter().for_each(Delivery::complete);
        peer.expect_pubacks(&[1]).await;
    }
}

/// Each trouble is told by name, with what to do.
#[tokio::test]
async fn troubles_have_names() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let mut peer = Peer::connect(&bench.listener).await;
        let code = if protocol == Protocol::V5 { 0x86 } else { 4 };
        peer.connack(false, code).await;
        bench
            .problem("wrong user name or password: check mqtt.username")
            .await;

        let mut peer = Peer::connect(&bench.listener).await;
        peer.connack(false, 0).await;
        let (_, subscribe) = peer.next().await;
        let code = if protocol == Protocol::V5 { 0x87 } else { 0x80 };
        peer.grant(&subscribe, code).await;
        let why = bench.problem("does not let us subscribe to").await;
        assert!(why.contains("topic read sensors/+/reading"), "{why}");

        let mut peer = Peer::connect(&bench.listener).await;
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        sleep(Duration::from_millis(50)).await;
        drop(peer);
        bench.problem("").await;
        assert!(bench.metrics.connects.with_label_values(&["refused"]).get() >= 1);
        assert_eq!(
            bench
                .metrics
                .disconnects
                .with_label_values(&["subscribe"])
                .get(),
            1
        );
    }
}

/// Two clients with one id: MQTT 5 says it, with 3.1.1 it has to be guessed.
#[tokio::test]
async fn a_takeover_is_recognised() {
    let bench = Bench::start(Protocol::V5).await;
    let mut peer = Peer::accept(&bench.listener, false).await;
    peer.write(&[0xe0, 2, 0x8e, 0]).await;
    bench
        .problem("another client connected with the same client id")
        .await;
    let again = timeout(Duration::from_secs(2), bench.listener.accept()).await;
    assert!(
        again.is_err(),
        "not at once: the two would take turns for ever"
    );

    let bench = Bench::start(Protocol::V311).await;
    for _ in 0..3 {
        drop(Peer::accept(&bench.listener, true).await);
    }
    bench
        .problem("probably a second client uses the same client id")
        .await;
}

/// Attempts become rarer; a connection without progress is an attempt like any other.
#[tokio::test]
async fn connects_ever_more_slowly() {
    for accepted in [false, true] {
        let bench = Bench::start(Protocol::V5).await;
        let begun = Instant::now();
        let mut connections = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            let attempt = timeout(Duration::from_secs(1), bench.listener.accept()).await;
            let Ok(Ok((mut stream, _))) = attempt else {
                continue;
            };
            connections += 1;
            if accepted {
                let _connect = read_packet(&mut stream).await;
                let _gone = stream.write_all(&[0x20, 3, 0, 0, 0]).await;
            }
        }
        assert!((3..=9).contains(&connections), "{connections} in 3 s");
    }
}

/// A broker that takes the connection and says nothing.
#[tokio::test]
async fn a_silent_broker_is_given_up() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let begun = Instant::now();
        let (_silent, _) = bench.listener.accept().await.unwrap();
        let why = timeout(Duration::from_secs(12), async {
            loop {
                if let LinkState::Down(Some(why)) = bench.link.state() {
                    return why;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        assert!(why.contains("no answer within 10 s"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(11));
    }
}

/// The end: what is outstanding is acknowledged, then goodbye; a frozen broker holds nothing up.
#[tokio::test]
async fn stops_after_what_is_outstanding() {
    for protocol in VERSIONS {
        let bench = Bench::start(protocol).await;
        let mut peer = Peer::accept(&bench.listener, false).await;
        peer.publish(1, b"one").await;
        let taken = bench.deliveries(1).await;
        bench.stop.send(true).unwrap();
        let early = peer.pubacks(Duration::from_millis(50)).await;
        assert_eq!(early, [0_u16; 0]);
        taken.into_iter().for_each(Delivery::complete);
        peer.expect_pubacks(&[1]).await;
        let (first, _) = peer.next().await;
        assert_eq!(first, 0xe0, "DISCONNECT");
        // The peer does not close: as if it were frozen.
        let begun = Instant::now();
        within("the end", bench.running).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));

        let bench = Bench::start(protocol).await;
        let _frozen = Peer::connect(&bench.listener).await;
        bench.stop.send(true).unwrap();
        within("the end", bench.running).await.unwrap();
    }
}
