//! The built-in listener over real sockets: every publish is acknowledged once, in order, and only
//! after the stream took it; whatever a client sends harms that client only.
//!
//! `VIGIE_SOAK=5000000 cargo test --release --test listener soak` runs the soak for longer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on must stop"
)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use vigie_actors::clock::SystemClock;
use vigie_actors::config::Span;
use vigie_actors::ingest::intake::{Delivery, Intake, Refused};
use vigie_actors::ingest::listener::{Config, Listener, User, hash_password};
use vigie_actors::metrics::ListenerMetrics;
use vigie_actors::reading::{Arrival, Quarantined};

/// Publishes of the soak test, over all connections.
const SOAK: usize = 200_000;
const WINDOW: usize = 1_000;
const CONNECTIONS: usize = 4;
/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

// ---- the engine's side ----

struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    metrics: ListenerMetrics,
}

impl Server {
    async fn start(config: Config, intake: Intake) -> Self {
        let config = Config {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..config
        };
        let listener = Listener::bind(config).await.unwrap();
        let addr = listener.local_addr();
        let (stop, stopped) = watch::channel(false);
        let metrics = metrics();
        let run = listener.run(
            intake,
            Arc::new(keep),
            Arc::new(SystemClock),
            metrics.clone(),
            stopped,
        );
        Self {
            addr,
            stop,
            task: tokio::spawn(run),
            metrics,
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        timeout(PATIENCE, self.task)
            .await
            .expect("run returns")
            .unwrap();
        assert_eq!(
            self.metrics.connections.get(),
            0,
            "every connection was counted out"
        );
    }

    fn publishes(&self, result: &str) -> u64 {
        self.metrics.publishes.with_label_values(&[result]).get()
    }

    fn connects(&self, result: &str) -> u64 {
        self.metrics.connects.with_label_values(&[result]).get()
    }

    async fn ended(&self, reason: &str) {
        let ended = self.metrics.disconnects.with_label_values(&[reason]);
        let counted = async {
            while ended.get() == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted)
            .await
            .unwrap_or_else(|_| panic!("no end by {reason}"));
    }
}

fn metrics() -> ListenerMetrics {
    ListenerMetrics::unregistered().unwrap()
}

/// The decoder of these tests keeps everything as it came.
fn keep(topic: &str, payload: &[u8], received_ms: i64) -> Arrival {
    let reason = if payload.len() > 8_192 {
        "too_large"
    } else {
        "kept"
    };
    let detail = payload.len().to_string();
    Arrival::Quarantine(Quarantined::new(
        reason,
        detail,
        topic,
        payload,
        received_ms,
    ))
}

fn kept(arrival: Arrival) -> Quarantined {
    match arrival {
        Arrival::Quarantine(message) => message,
        Arrival::Reading(_) => panic!("the decoder keeps everything"),
    }
}

type Seen = Arc<Mutex<Vec<Quarantined>>>;

/// Completes at once, and remembers.
fn remembering() -> (Intake, Seen) {
    let seen = Seen::default();
    let memory = Arc::clone(&seen);
    let intake = Intake::new(100_000, move |mut delivery: Delivery| {
        let arrivals = std::mem::take(&mut delivery.arrivals);
        memory
            .lock()
            .unwrap()
            .extend(arrivals.into_iter().map(kept));
        delivery.complete();
        Ok(())
    });
    (intake, seen)
}

/// Completes from a thread of its own after tiny random delays, several deliveries at a time.
fn elsewhere(record: impl Fn(Vec<Arrival>) + Send + 'static) -> Intake {
    let (sender, receiver) = mpsc::channel::<Delivery>();
    std::thread::spawn(move || {
        let mut random = Random(7);
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            batch.extend(receiver.try_iter());
            if random.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(300)));
            }
            for mut delivery in batch {
                record(std::mem::take(&mut delivery.arrivals));
                delivery.complete();
            }
        }
    });
    Intake::new(100_000, move |delivery| {
        sender.send(delivery).map_err(|_| Refused)
    })
}

/// Xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }
}

// ---- the client's side, by hand: the bytes are what is tested ----

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V4,
    V5,
}
use Version::{V4, V5};

fn packet(header: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![header];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        bytes.push(u8::try_from(length & 0x7f).unwrap() | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

fn connect(version: Version, id: &str, keep_alive: u16, login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = text(b"MQTT");
    body.push(if version == V5 { 5 } else { 4 });
    body.push(if login.is_some() { 0xc2 } else { 0x02 });
    body.extend_from_slice(&keep_alive.to_be_bytes());
    if version == V5 {
        body.push(0);
    }
    body.extend(text(id.as_bytes()));
    if let Some((name, password)) = login {
        body.extend(text(name.as_bytes()));
        body.extend(text(password.as_bytes()));
    }
    packet(0x10, &body)
}

/// `flags`: 0, 2 or 4 for quality of service 0, 1 or 2; 1 more for retain.
fn publish(version: Version, flags: u8, topic: &[u8], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version == V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    packet(0x30 | flags, &body)
}

fn reading(version: Version, id: u16, payload: &[u8]) -> Vec<u8> {
    publish(version, 2, b"sensors/C001/reading", id, payload)
}

fn puback(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![0x40, 0x02, high, low]
}

struct Client {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    version: Version,
}

impl Client {
    async fn raw(addr: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        Self {
            read,
            write,
            version,
        }
    }

    async fn open(addr: SocketAddr, version: Version) -> Self {
        Self::login(addr, version, None).await
    }

    async fn login(addr: SocketAddr, version: Version, login: Option<(&str, &str)>) -> Self {
        let mut client = Self::raw(addr, version).await;
        client.send(&connect(version, "node", 60, login)).await;
        let connack = client.receive().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.write.write_all(bytes))
            .await
            .expect("taken")
            .unwrap();
    }

    async fn publish(&mut self, id: u16, payload: &[u8]) {
        let bytes = reading(self.version, id, payload);
        self.send(&bytes).await;
    }

    /// The next packet, fixed header included.
    async fn receive(&mut self) -> Vec<u8> {
        self.next().await.expect("a packet, not the end")
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, async {
            let mut bytes = vec![self.read.read_u8().await.ok()?];
            let mut length = 0;
            for shift in [0, 7, 14, 21] {
                let byte = self.read.read_u8().await.unwrap();
                bytes.push(byte);
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = bytes.len();
            bytes.resize(start + length, 0);
            self.read.read_exact(&mut bytes[start..]).await.unwrap();
            Some(bytes)
        })
        .await
        .expect("an answer in time")
    }

    async fn acknowledged(&mut self, id: u16) {
        assert_eq!(self.receive().await, puback(id));
    }

    /// The listener closes: MQTT 5 clients hear why, 3.1.1 clients hear nothing.
    async fn closed(&mut self, code: u8) {
        let last = self.next().await;
        match self.version {
            V5 => {
                let last = last.expect("a DISCONNECT");
                assert_eq!((last[0], last[2]), (0xe0, code), "{last:02x?}");
                assert_eq!(self.next().await, None);
            }
            V4 => assert_eq!(last, None),
        }
    }
}

// ---- soak ----

/// Sends `count` publishes, cut into pieces of every size, and checks every PUBACK.
async fn publisher(addr: SocketAddr, index: usize, count: usize) {
    let version = if index.is_multiple_of(2) { V4 } else { V5 };
    let Client {
        mut read,
        mut write,
        ..
    } = Client::open(addr, version).await;
    let window = Arc::new(Semaphore::new(WINDOW));
    let tokens = Arc::clone(&window);
    let writer = tokio::spawn(async move {
        let topic = format!("sensors/S{index}/reading");
        let mut random = Random(index as u64 + 1);
        let mut piece = 0;
        let mut sent = 0;
        let mut bytes = VecDeque::new();
        while sent < count || !bytes.is_empty() {
            let wanted = (random.index(600) + 1).min(count - sent);
            if wanted > 0 {
                tokens
                    .acquire_many(u32::try_from(wanted).unwrap())
                    .await
                    .unwrap()
                    .forget();
            }
            for number in sent..sent + wanted {
                let id = u16::try_from(number % 65_535 + 1).unwrap();
                let payload = format!("{index} {number} {:x}", random.next() >> random.below(60));
                bytes.extend(publish(
                    version,
                    2,
                    topic.as_bytes(),
                    id,
                    payload.as_bytes(),
                ));
            }
            sent += wanted;
            // Now and then a series of small pieces, each in a segment of its own; else large ones.
            let small = random.below(8) == 0;
            while !bytes.is_empty() {
                piece = piece % 37 + 1;
                let size = if small {
                    piece
                } else {
                    random.index(9_000) + 1
                };
                let size = size.min(bytes.len());
                let part: Vec<u8> = bytes.drain(..size).collect();
                write.write_all(&part).await.unwrap();
                if small && piece.is_multiple_of(3) {
                    tokio::task::yield_now().await;
                }
            }
        }
        write
    });
    let mut answer = [0; 4];
    for number in 0..count {
        timeout(PATIENCE, read.read_exact(&mut answer))
            .await
            .expect("no hang")
            .unwrap();
        let id = u16::try_from(number % 65_535 + 1).unwrap();
        assert_eq!(
            answer.to_vec(),
            puback(id),
            "connection {index}, publish {number}"
        );
        window.add_permits(1);
    }
    let mut write = writer.await.unwrap();
    write.write_all(&[0xe0, 0]).await.unwrap();
    assert_eq!(
        read.read(&mut answer).await.unwrap(),
        0,
        "not one PUBACK too many"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_every_publish_is_acknowledged_once_and_in_order() {
    let total: usize = std::env::var("VIGIE_SOAK")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SOAK);
    let count = total / CONNECTIONS;
    let next = Arc::new(Mutex::new([0; CONNECTIONS]));
    let expected = Arc::clone(&next);
    let intake = elsewhere(move |arrivals| {
        let mut expected = expected.lock().unwrap();
        for arrival in arrivals {
            let payload = String::from_utf8(kept(arrival).payload).unwrap();
            let mut words = payload.split(' ').map(|word| word.parse::<usize>().ok());
            let index = words.next().flatten().unwrap();
            assert_eq!(
                words.next().flatten(),
                Some(expected[index]),
                "in order of receipt"
            );
            expected[index] += 1;
        }
    });
    let server = Server::start(Config::default(), intake).await;
    let publishers: Vec<_> = (0..CONNECTIONS)
        .map(|index| tokio::spawn(publisher(server.addr, index, count)))
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(*next.lock().unwrap(), [count; CONNECTIONS]);
    assert_eq!(server.metrics.pubacks.get(), (count * CONNECTIONS) as u64);
    assert_eq!(server.publishes("accepted"), (count * CONNECTIONS) as u64);
    server.stop().await;
}

// ---- deliveries ----

#[tokio::test]
async fn nothing_is_acknowledged_before_the_stream_answers() {
    let held: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let hold = Arc::clone(&held);
    let intake = Intake::new(1_000, move |delivery| {
        hold.lock().unwrap().push(delivery);
        Ok(())
    });
    let server = Server::start(Config::default(), intake).await;
    let mut client = Client::open(server.addr, V4).await;
    client.publish(1, b"a").await;
    sleep(Duration::from_millis(50)).await;
    client.publish(2, b"b").await;
    client.send(&[0xc0, 0]).await;
    let early = timeout(Duration::from_millis(200), client.read.read_u8()).await;
    // The ping may pass the publishes, and only it.
    assert!(early.is_err() || early.unwrap().unwrap() == 0xd0);
    let mut deliveries: Vec<_> = held.lock().unwrap().drain(..).collect();
    deliveries.reverse();
    for delivery in deliveries {
        delivery.complete();
    }
    let mut rest = Vec::new();
    timeout(PATIENCE, async {
        while !rest.ends_with(&puback(2)) {
            for delivery in held.lock().unwrap().drain(..) {
                delivery.complete();
            }
            let mut bytes = [0; 64];
            let read = timeout(Duration::from_millis(20), client.read.read(&mut bytes)).await;
            rest.extend_from_slice(&bytes[..read.map_or(0, Result::unwrap)]);
        }
    })
    .await
    .unwrap();
    let first = rest
        .windows(4)
        .position(|bytes| bytes == puback(1))
        .unwrap();
    let second = rest
        .windows(4)
        .position(|bytes| bytes == puback(2))
        .unwrap();
    assert!(
        first < second,
        "in order of receipt, whatever the order of the answers"
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_delivery_closes_without_acknowledging() {
    for version in [V4, V5] {
        let server = Server::start(Config::default(), Intake::new(10, |_| Err(Refused))).await;
        let mut client = Client::open(server.addr, version).await;
        client.publish(1, b"a").await;
        client.closed(0x89).await;
        server.ended("refused").await;
        assert_eq!(server.metrics.pubacks.get(), 0);
        server.stop().await;
    }
}

#[tokio::test]
async fn qos_0_before_disconnect_is_delivered() {
    let (intake, seen) = remembering();
    let server = Server::start(Config::default(), intake).await;
    let mut client = Client::open(server.addr, V4).await;
    let mut bytes = publish(V4, 0, b"sensors/C001/reading", 0, b"last words");
    bytes.extend_from_slice(&[0xe0, 0]);
    client.send(&bytes).await;
    assert_eq!(client.next().await, None);
    assert_eq!(seen.lock().unwrap()[0].payload, b"last words");
    server.ended("client").await;
    server.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_what_is_outstanding() {
    for version in [V4, V5] {
        let (sender, receiver) = mpsc::channel::<Delivery>();
        let intake = Intake::new(10, move |delivery| {
            sender.send(delivery).map_err(|_| Refused)
        });
        let server = Server::start(Config::default(), intake).await;
        let mut client = Client::open(server.addr, version).await;
        client.publish(7, b"a").await;
        let delivery = loop {
            match receiver.try_recv() {
                Ok(delivery) => break delivery,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        server.stop.send_replace(true);
        sleep(Duration::from_millis(50)).await;
        assert!(!server.task.is_finished(), "run waits for the answer");
        assert!(
            TcpStream::connect(server.addr).await.is_err(),
            "and accepts nobody"
        );
        delivery.complete();
        client.acknowledged(7).await;
        client.closed(0x8b).await;
        drop(client);
        server.ended("shutdown").await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_decoder_that_panics_harms_its_message_only() {
    let (intake, seen) = remembering();
    let config = Config {
        addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Config::default()
    };
    let listener = Listener::bind(config).await.unwrap();
    let addr = listener.local_addr();
    let (stop, stopped) = watch::channel(false);
    let decode = |topic: &str, payload: &[u8], now: i64| {
        assert!(payload != b"poison");
        keep(topic, payload, now)
    };
    let clock = Arc::new(SystemClock);
    let task = tokio::spawn(listener.run(intake, Arc::new(decode), clock, metrics(), stopped));
    let mut client = Client::open(addr, V4).await;
    for (id, payload) in [(1, &b"fine"[..]), (2, b"poison"), (3, b"fine")] {
        client.publish(id, payload).await;
        client.acknowledged(id).await;
    }
    let reasons: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|message| message.reason)
        .collect();
    assert_eq!(reasons, ["kept", "decoder_panic", "kept"]);
    drop(client);
    stop.send_replace(true);
    task.await.unwrap();
}

// ---- what is accepted, and what becomes of it ----

#[tokio::test]
async fn large_payloads_are_decoded_and_acknowledged_up_to_a_mebibyte() {
    for version in [V4, V5] {
        let (intake, seen) = remembering();
        let server = Server::start(Config::default(), intake).await;
        let mut client = Client::open(server.addr, version).await;
        for (id, size) in [(1, 0), (2, 20_000), (3, 1024 * 1024), (4, 10)] {
            client.publish(id, &vec![b'x'; size]).await;
            client.acknowledged(id).await;
        }
        let sizes: Vec<_> = seen
            .lock()
            .unwrap()
            .iter()
            .map(|message| (message.reason, message.detail.clone()))
            .collect();
        let expected = [
            ("kept", "0"),
            ("too_large", "20000"),
            ("too_large", "1048576"),
            ("kept", "10"),
        ];
        assert_eq!(
            sizes,
            expected.map(|(reason, size)| (reason, size.to_owned()))
        );
        assert_eq!(
            (server.publishes("accepted"), server.publishes("too_large")),
            (2, 2)
        );
        // Beyond that the packet is not even buffered: its header alone ends the connection.
        client.send(&[0x32, 0xff, 0xff, 0x7f]).await;
        client.closed(0x95).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn retained_and_status_messages_are_acknowledged_and_go_nowhere() {
    let (intake, seen) = remembering();
    let server = Server::start(Config::default(), intake).await;
    let mut client = Client::open(server.addr, V5).await;
    client
        .send(&publish(V5, 3, b"sensors/C001/reading", 1, b"old"))
        .await;
    client.acknowledged(1).await;
    client
        .send(&publish(V5, 2, b"sensors/C001/status", 2, b"online"))
        .await;
    client.acknowledged(2).await;
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(
        (server.publishes("retained"), server.publishes("status")),
        (1, 1)
    );
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn subscribe_is_refused_and_the_connection_stays() {
    for version in [V4, V5] {
        let (intake, _seen) = remembering();
        let server = Server::start(Config::default(), intake).await;
        let mut client = Client::open(server.addr, version).await;
        let mut body = vec![0, 9];
        if version == V5 {
            body.push(0);
        }
        body.extend(text(b"sensors/#"));
        let mut unsubscribe = body.clone();
        body.push(1);
        client.send(&packet(0x82, &body)).await;
        let suback = client.receive().await;
        assert_eq!((suback[0], &suback[2..4]), (0x90, &[0, 9][..]));
        let words = String::from_utf8_lossy(&suback).into_owned();
        assert_eq!(words.contains("ingest endpoint"), version == V5, "{words}");
        assert_eq!(
            *suback.last().unwrap(),
            if version == V5 { 0x83 } else { 0x80 }
        );
        unsubscribe[1] = 10;
        client.send(&packet(0xa2, &unsubscribe)).await;
        let unsuback = client.receive().await;
        assert_eq!((unsuback[0], &unsuback[2..4]), (0xb0, &[0, 10][..]));
        client.send(&[0xc0, 0]).await;
        assert_eq!(client.receive().await, [0xd0, 0]);
        client.publish(11, b"still here").await;
        client.acknowledged(11).await;
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn mqtt_5_clients_are_told_the_limits() {
    let (intake, _seen) = remembering();
    let server = Server::start(Config::default(), intake).await;
    let mut client = Client::raw(server.addr, V5).await;
    client.send(&connect(V5, "", 0, None)).await;
    let connack = client.receive().await;
    let has = |wanted: &[u8]| connack.windows(wanted.len()).any(|bytes| bytes == wanted);
    assert_eq!(connack[2..4], [0, 0], "no session, success");
    assert!(has(&[0x21, 0x03, 0xe8]), "receive maximum 1,000");
    assert!(has(&[0x24, 1]), "QoS 1");
    assert!(has(&[0x25, 1]), "retained messages are taken");
    assert!(
        has(&[0x27, 0, 0, 0x24, 0]),
        "maximum packet size 8,192 + 1,024"
    );
    assert!(
        has(&[0x28, 0]) && has(&[0x29, 0]) && has(&[0x2a, 0]),
        "no subscriptions"
    );
    assert!(has(&[0x13, 0x07, 0x08]), "keep-alive 30 minutes");
    assert!(has(b"vigie-"), "an assigned client id");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn broken_protocol_ends_its_connection_after_the_acknowledgements() {
    let cases: [(&str, Vec<u8>, u8); 7] = [
        ("QoS 2", publish(V5, 4, b"sensors/a/reading", 9, b""), 0x9b),
        (
            "topic is not UTF-8",
            publish(V5, 2, b"\xff\xfe", 9, b""),
            0x81,
        ),
        (
            "wildcard in the topic",
            publish(V5, 2, b"sensors/+/x", 9, b""),
            0x90,
        ),
        (
            "packet id 0",
            publish(V5, 2, b"sensors/a/reading", 0, b""),
            0x82,
        ),
        ("truncated", packet(0x32, &[0, 9, b'a']), 0x81),
        (
            "topic alias",
            packet(0x32, b"\0\x01a\0\x09\x03\x23\0\x01"),
            0x94,
        ),
        ("a second CONNECT", connect(V5, "node", 60, None), 0x82),
    ];
    for (what, bytes, code) in cases {
        let (intake, seen) = remembering();
        let server = Server::start(Config::default(), intake).await;
        let mut bystander = Client::open(server.addr, V4).await;
        let mut client = Client::open(server.addr, V5).await;
        client
            .send(&[reading(V5, 1, b"good"), bytes].concat())
            .await;
        client.acknowledged(1).await;
        client.closed(code).await;
        server.ended("protocol").await;
        assert_eq!(seen.lock().unwrap().len(), 1, "{what}");
        bystander.publish(1, b"untouched").await;
        bystander.acknowledged(1).await;
        drop((client, bystander));
        server.stop().await;
    }
}

#[tokio::test]
async fn garbage_harms_nobody_else() {
    let (intake, _seen) = remembering();
    let server = Server::start(Config::default(), intake).await;
    let mut bystander = Client::open(server.addr, V5).await;
    let mut random = Random(0x5eed);
    for round in 0..600_u16 {
        let version = if round.is_multiple_of(2) { V4 } else { V5 };
        let mut client = Client::raw(server.addr, version).await;
        let mut bytes = Vec::new();
        if round % 3 != 0 {
            bytes.extend(connect(version, "fuzz", 60, None));
        }
        // Half of it from scratch, half by damaging packets that are right.
        for _ in 0..random.below(6) {
            let mut part = match random.below(4) {
                0 => (0..random.below(60))
                    .map(|_| random.next().to_le_bytes()[0])
                    .collect(),
                1 => packet(random.next().to_le_bytes()[0], &random.next().to_le_bytes()),
                2 => connect(version, "again", 1, Some(("u", "p"))),
                _ => reading(version, 5, b"payload"),
            };
            if random.below(2) == 0 && !part.is_empty() {
                let at = random.index(part.len());
                part[at] ^= 1 << random.below(8);
            }
            bytes.extend(part);
        }
        // The listener may close while we write.
        let _closed = client.write.write_all(&bytes).await;
        drop(client);
        if round.is_multiple_of(50) {
            let id = round + 1;
            bystander.publish(id, b"untouched").await;
            bystander.acknowledged(id).await;
        }
    }
    let gone = async {
        while server.metrics.connections.get() > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone)
        .await
        .expect("every broken connection was closed");
    drop(bystander);
    server.stop().await;
}

// ---- who may come in ----

fn guarded() -> Config {
    let user = |name: &str, publish: &[&str]| User {
        name: name.into(),
        password_hash: hash_password("right").unwrap(),
        publish: publish.iter().map(|filter| (*filter).to_owned()).collect(),
    };
    let users = vec![
        user("C001", &["sensors/%u/#"]),
        user("hub", &["sensors/+/reading"]),
    ];
    Config {
        users,
        ..Config::default()
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused() {
    let (intake, _seen) = remembering();
    let server = Server::start(guarded(), intake).await;
    let logins = [
        None,
        Some(("C001", "wrong")),
        Some(("nobody", "right")),
        Some(("C001", "")),
    ];
    for version in [V4, V5] {
        for login in logins {
            let mut client = Client::raw(server.addr, version).await;
            client.send(&connect(version, "node", 60, login)).await;
            let connack = client.receive().await;
            let code = if version == V5 { 0x86 } else { 4 };
            assert_eq!((connack[0], connack[3]), (0x20, code), "{login:?}");
            assert_eq!(client.next().await, None);
        }
        // Twice: the second time from memory.
        for _ in 0..2 {
            let mut client = Client::login(server.addr, version, Some(("C001", "right"))).await;
            client.publish(1, b"a").await;
            client.acknowledged(1).await;
        }
    }
    assert_eq!(
        (
            server.connects("bad_credentials"),
            server.connects("accepted")
        ),
        (8, 4)
    );
    server.stop().await;
}

#[tokio::test]
async fn topics_outside_the_filters_go_nowhere() {
    let (intake, seen) = remembering();
    let server = Server::start(guarded(), intake).await;
    for version in [V4, V5] {
        let mut client = Client::login(server.addr, version, Some(("C001", "right"))).await;
        client
            .send(&publish(
                version,
                2,
                b"sensors/C002/reading",
                1,
                b"not mine",
            ))
            .await;
        let answer = client.receive().await;
        match version {
            V4 => assert_eq!(answer, puback(1)),
            V5 => assert_eq!(answer, [0x40, 3, 0, 1, 0x87]),
        }
        client.publish(2, b"mine").await;
        client.acknowledged(2).await;
        let mut hub = Client::login(server.addr, version, Some(("hub", "right"))).await;
        hub.publish(3, b"any").await;
        hub.acknowledged(3).await;
    }
    assert_eq!(server.publishes("not_authorized"), 2);
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|message| message.payload != b"not mine")
    );
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let (intake, _seen) = remembering();
    let config = Config {
        max_connections: 1,
        ..Config::default()
    };
    let server = Server::start(config, intake).await;
    let first = Client::open(server.addr, V4).await;
    for (version, code) in [(V4, 3), (V5, 0x97)] {
        let mut client = Client::raw(server.addr, version).await;
        client.send(&connect(version, "node", 60, None)).await;
        assert_eq!(client.receive().await[3], code);
        assert_eq!(client.next().await, None);
    }
    assert_eq!(server.connects("too_many"), 2);
    drop(first);
    server.ended("client").await;
    let again = Client::open(server.addr, V4).await;
    drop(again);
    server.stop().await;
}

#[tokio::test]
async fn pipelined_publishes_behind_connect_are_taken() {
    let (intake, seen) = remembering();
    let server = Server::start(guarded(), intake).await;
    let mut client = Client::raw(server.addr, V4).await;
    let login = connect(V4, "node", 60, Some(("C001", "right")));
    client
        .send(&[login, reading(V4, 1, b"a"), reading(V4, 2, b"b")].concat())
        .await;
    assert_eq!(client.receive().await, [0x20, 2, 0, 0]);
    client.acknowledged(1).await;
    client.acknowledged(2).await;
    assert_eq!(seen.lock().unwrap().len(), 2);
    drop(client);
    server.stop().await;
}

// ---- time ----

#[tokio::test]
async fn a_connection_without_connect_is_closed() {
    let (intake, _seen) = remembering();
    let config = Config {
        connect_timeout: Span::secs(1),
        ..Config::default()
    };
    let server = Server::start(config, intake).await;
    let mut silent = Client::raw(server.addr, V4).await;
    let mut slow = Client::raw(server.addr, V4).await;
    slow.send(&connect(V4, "node", 60, None)[..9]).await;
    assert_eq!(silent.next().await, None);
    assert_eq!(slow.next().await, None);
    let counted = async {
        while server.connects("timeout") < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    for version in [V4, V5] {
        let (intake, _seen) = remembering();
        let server = Server::start(Config::default(), intake).await;
        let mut client = Client::raw(server.addr, version).await;
        client.send(&connect(version, "node", 1, None)).await;
        client.receive().await;
        for _ in 0..3 {
            sleep(Duration::from_millis(900)).await;
            client.send(&[0xc0, 0]).await;
            assert_eq!(client.receive().await, [0xd0, 0], "pings keep it open");
        }
        let since = Instant::now();
        client.closed(0x8d).await;
        let silent = since.elapsed();
        assert!(silent > Duration::from_millis(1_300), "{silent:?}");
        assert!(silent < Duration::from_secs(4), "{silent:?}");
        server.ended("keep_alive").await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_slow_stream_is_not_the_clients_silence() {
    let finished = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let (done, counted) = (Arc::clone(&finished), Arc::clone(&count));
    let intake = Intake::new(10, move |delivery: Delivery| {
        let done = Arc::clone(&done);
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            sleep(Duration::from_secs(3)).await;
            done.store(true, Ordering::Relaxed);
            delivery.complete();
        });
        Ok(())
    });
    let server = Server::start(Config::default(), intake).await;
    let mut client = Client::raw(server.addr, V4).await;
    client.send(&connect(V4, "node", 1, None)).await;
    client.receive().await;
    client.publish(1, b"a").await;
    client.acknowledged(1).await;
    assert!(finished.load(Ordering::Relaxed));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    drop(client);
    server.stop().await;
}

// ---- config ----

#[tokio::test]
async fn config_errors_name_the_fix() {
    let open = Config {
        addr: SocketAddr::from(([0, 0, 0, 0], 1883)),
        ..Config::default()
    };
    let error = open.validate().unwrap_err().to_string();
    assert!(
        error.contains("0.0.0.0:1883") && error.contains("[[listener.users]]"),
        "{error}"
    );
    assert!(
        Config {
            max_connections: 0,
            ..Config::default()
        }
        .validate()
        .is_err()
    );
    assert!(
        Config {
            max_payload_bytes: 2_000_000,
            ..Config::default()
        }
        .validate()
        .is_err()
    );
    assert!(guarded().validate().is_ok());
    let printed = format!(
        "{:?}{}",
        guarded(),
        serde_json::to_string(&guarded()).unwrap()
    );
    assert!(!printed.contains("$argon2"), "no hash in any output");
    assert!(serde_json::from_str::<Config>(r#"{"adr":"127.0.0.1:1"}"#).is_err());

    let (intake, _seen) = remembering();
    let server = Server::start(Config::default(), intake).await;
    let taken = Config {
        addr: server.addr,
        ..Config::default()
    };
    let error = Listener::bind(taken).await.unwrap_err().to_string();
    assert!(
        error.contains(&server.addr.to_string()) && error.contains("`addr`"),
        "{error}"
    );
    server.stop().await;
}
