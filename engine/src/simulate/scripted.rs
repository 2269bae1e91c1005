//! Tests of the publisher against a broker that follows a script.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::publisher::PublishError;
use super::{FaultKind, FaultPlan, Fleet, FleetConfig, Options, Protocol, Qos, Report, publish};

/// What the broker does with one connection.
#[derive(Debug, Clone)]
struct Act {
    /// The whole CONNACK.
    connack: Vec<u8>,
    /// Publishes after which it drops the connection, the last ones unacknowledged.
    drop_after: Option<usize>,
    /// Of these it acknowledges so many.
    ack: usize,
    /// Whether it answers at all after CONNACK.
    mute: bool,
}

impl Act {
    fn take_all(connack: &[u8]) -> Self {
        Self {
            connack: connack.to_vec(),
            drop_after: None,
            ack: usize::MAX,
            mute: false,
        }
    }
}

const ACCEPT_311: [u8; 4] = [0x20, 2, 0, 0];
const ACCEPT_5: [u8; 5] = [0x20, 3, 0, 0, 0];

/// A publish as it arrived: connection, DUP, packet id (0 at `QoS` 0), topic, payload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    connection: usize,
    dup: bool,
    id: u16,
    topic: String,
    payload: String,
}

struct Broker {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connects: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Broker {
    /// Plays the acts in order of connection, the last one for all that follow.
    async fn start(protocol: Protocol, acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connects = Arc::new(Mutex::new(Vec::new()));
        let (shared, hellos) = (Arc::clone(&seen), Arc::clone(&connects));
        tokio::spawn(async move {
            for connection in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let act = acts[connection.min(acts.len() - 1)].clone();
                let (seen, hellos) = (Arc::clone(&shared), Arc::clone(&hellos));
                tokio::spawn(async move {
                    let _ = serve(socket, protocol, connection, act, &seen, &hellos).await;
                });
            }
        });
        Self {
            address,
            seen,
            connects,
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// First byte and body of the next packet.
async fn packet(socket: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let first = socket.read_u8().await?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = socket.read_u8().await?;
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok((first, body))
}

async fn serve(
    mut socket: TcpStream,
    protocol: Protocol,
    connection: usize,
    act: Act,
    seen: &Mutex<Vec<Seen>>,
    connects: &Mutex<Vec<Vec<u8>>>,
) -> std::io::Result<()> {
    let (first, body) = packet(&mut socket).await?;
    assert_eq!(first, 0x10);
    connects.lock().unwrap().push(body);
    socket.write_all(&act.connack).await?;
    let mut count = 0;
    loop {
        let (first, body) = packet(&mut socket).await?;
        match first >> 4 {
            3 => {
                let qos1 = first & 2 != 0;
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let mut at = topic_end;
                let mut id = 0;
                if qos1 {
                    id = u16::from_be_bytes([body[at], body[at + 1]]);
                    at += 2;
                }
                if protocol == Protocol::V5 {
                    assert_eq!(body[at], 0);
                    at += 1;
                }
                seen.lock().unwrap().push(Seen {
                    connection,
                    dup: first & 8 != 0,
                    id,
                    topic: String::from_utf8(body[2..topic_end].to_vec()).unwrap(),
                    payload: String::from_utf8(body[at..].to_vec()).unwrap(),
                });
                count += 1;
                if qos1 && count <= act.ack && !act.mute {
                    let [high, low] = id.to_be_bytes();
                    socket.write_all(&[0x40, 2, high, low]).await?;
                }
                if act.drop_after == Some(count) {
                    return Ok(());
                }
            }
            12 if !act.mute => socket.write_all(&[0xD0, 0]).await?,
            14 => return Ok(()),
            _ => {}
        }
    }
}

fn fleet(sensors: usize, kinds: &[FaultKind]) -> Arc<Fleet> {
    Arc::new(Fleet::new(FleetConfig {
        sensors,
        seed: 42,
        interval: Duration::from_secs(10),
        faults: FaultPlan {
            kinds: kinds.to_vec(),
            every: 100,
            warmup: 0,
        },
    }))
}

fn options(broker: &Broker, protocol: Protocol, count: u64) -> Options {
    let address = format!("mqtt://{}", broker.address).parse().unwrap();
    Options {
        protocol,
        count: Some(count),
        ..Options::new(address, fleet(10, &[]), 1_790_000_000_000)
    }
}

async fn run(options: Options) -> Result<Report, PublishError> {
    let (_keep, stop) = watch::channel(false);
    tokio::time::timeout(Duration::from_secs(30), publish(options, stop, |_| {}))
        .await
        .expect("the publisher ends")
}

/// (id, seq) of a payload.
fn key(payload: &str) -> (String, u64) {
    let after = |key: &str| payload.split_once(key).unwrap().1;
    let id = after("\"id\":\"").split('"').next().unwrap().to_owned();
    let seq = after("\"seq\":")
        .split([',', '}'])
        .next()
        .unwrap()
        .parse()
        .unwrap();
    (id, seq)
}

#[tokio::test]
async fn everything_is_published_once_and_acknowledged() {
    for (protocol, accept) in [
        (Protocol::V311, &ACCEPT_311[..]),
        (Protocol::V5, &ACCEPT_5[..]),
    ] {
        let broker = Broker::start(protocol, vec![Act::take_all(accept)]).await;
        let options = Options {
            connections: 3,
            window: 7,
            ..options(&broker, protocol, 1_005)
        };
        let report = run(options).await.unwrap();
        assert_eq!(
            (report.sent, report.acked, report.unacked),
            (1_005, 1_005, 0)
        );
        assert_eq!((report.resent, report.reconnects), (0, 0));
        assert_eq!(report.readings_per_sensor, 101);
        assert!(report.latency.unwrap().max > Duration::ZERO);
        let seen = broker.seen();
        let keys: HashSet<_> = seen.iter().map(|s| key(&s.payload)).collect();
        assert_eq!((seen.len(), keys.len()), (1_005, 1_005));
        let mut homes = HashMap::new();
        for s in &seen {
            let home = homes.entry(s.topic.clone()).or_insert(s.connection);
            assert_eq!(*home, s.connection, "{} has one connection", s.topic);
        }
        assert_eq!(homes.len(), 10);
        assert_eq!(homes.into_values().collect::<HashSet<_>>().len(), 3);
        assert!(seen.iter().all(|s| !s.dup));
    }
}

#[tokio::test]
async fn after_a_lost_connection_everything_unacknowledged_is_sent_again_in_order() {
    let lossy = Act {
        drop_after: Some(50),
        ack: 20,
        ..Act::take_all(&ACCEPT_5)
    };
    let again = Act {
        drop_after: Some(40),
        ack: 10,
        ..Act::take_all(&ACCEPT_5)
    };
    let acts = vec![lossy, again, Act::take_all(&ACCEPT_5)];
    let broker = Broker::start(Protocol::V5, acts).await;
    let folder = tempfile::tempdir().unwrap();
    let acked_file = folder.path().join("acked");
    let options = Options {
        window: 100,
        acked_file: Some(acked_file.clone()),
        ..options(&broker, Protocol::V5, 400)
    };
    let report = run(options).await.unwrap();
    assert_eq!((report.sent, report.acked, report.unacked), (400, 400, 0));
    assert_eq!(report.reconnects, 2);
    let seen = broker.seen();
    let of = |c: usize| {
        seen.iter()
            .filter(|s| s.connection == c)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (first, second, third) = (of(0), of(1), of(2));
    // The broker's PUBACKs may be lost with the connection: what comes again starts at most there.
    let start = first
        .iter()
        .position(|s| s.payload == second[0].payload)
        .unwrap();
    assert!(start <= 20, "{start}");
    for (old, new) in first[start..].iter().zip(&second) {
        assert_eq!(
            (&old.payload, old.id, true),
            (&new.payload, new.id, new.dup)
        );
    }
    let start = second
        .iter()
        .position(|s| s.payload == third[0].payload)
        .unwrap();
    assert!(start <= 10, "{start}");
    for (old, new) in second[start..].iter().zip(&third) {
        assert_eq!(
            (&old.payload, old.id, true),
            (&new.payload, new.id, new.dup)
        );
    }
    let keys: HashSet<_> = seen.iter().map(|s| key(&s.payload)).collect();
    assert_eq!(keys.len(), 400);
    let acked = std::fs::read_to_string(acked_file).unwrap();
    let lines: HashSet<_> = acked.lines().collect();
    assert_eq!((acked.lines().count(), lines.len()), (400, 400));
    let boot = acked.split(' ').nth(1).unwrap();
    assert!(lines.contains(format!("C010 {boot} 39 1790000390000").as_str()));
}

#[tokio::test]
async fn the_receive_maximum_of_the_broker_bounds_the_window() {
    // CONNACK with receive maximum 5, and no PUBACK: five publishes, then silence.
    let connack = [0x20, 6, 0, 0, 3, 0x21, 0, 5];
    let mute = Act {
        mute: true,
        ..Act::take_all(&connack)
    };
    let broker = Broker::start(Protocol::V5, vec![mute]).await;
    let options = Options {
        duration: Some(Duration::from_millis(100)),
        grace: Duration::from_millis(100),
        ..options(&broker, Protocol::V5, 100)
    };
    let report = run(options).await.unwrap();
    assert_eq!((report.sent, report.acked, report.unacked), (5, 0, 5));
    assert_eq!((broker.seen().len(), report.latency), (5, None));
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_says_what_to_do() {
    let refuse = [0x20, 2, 0, 4];
    let broker = Broker::start(Protocol::V311, vec![Act::take_all(&refuse)]).await;
    let options = Options {
        username: Some("node".to_owned()),
        password: Some("wrong-horse".to_owned().into()),
        ..options(&broker, Protocol::V311, 10)
    };
    assert!(!format!("{options:?}").contains("wrong-horse"));
    let error = run(options).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PublishError::Refused { .. }), "{text}");
    assert!(
        text.contains("check the user name and the password"),
        "{text}"
    );
    assert!(!text.contains("wrong-horse"), "{text}");
    let hello = broker.connects.lock().unwrap()[0].clone();
    assert!(hello.ends_with(b"\0\x04node\0\x0bwrong-horse"));
}

#[tokio::test]
async fn no_broker_is_an_error_that_says_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let broker = format!("mqtt://{address}").parse().unwrap();
    let text = run(Options::new(broker, fleet(1, &[]), 0))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("start the broker"),
        "{text}"
    );
}

#[tokio::test]
async fn a_broker_without_qos_1_is_refused_at_once() {
    let connack = [0x20, 5, 0, 0, 2, 0x24, 0];
    let broker = Broker::start(Protocol::V5, vec![Act::take_all(&connack)]).await;
    let text = run(options(&broker, Protocol::V5, 1))
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("use --qos 0"), "{text}");
}

#[tokio::test]
async fn options_out_of_range_are_errors() {
    let broker: super::Broker = "mqtt://127.0.0.1:1".parse().unwrap();
    let good = Options::new(broker, fleet(1, &[]), 0);
    for bad in [
        Options {
            rate: Some(0.0),
            ..good.clone()
        },
        Options {
            rate: Some(f64::NAN),
            ..good.clone()
        },
        Options {
            connections: 0,
            ..good.clone()
        },
        Options {
            window: 0,
            ..good.clone()
        },
        Options {
            fleet: fleet(0, &[]),
            ..good.clone()
        },
        Options {
            password: Some("x".to_owned().into()),
            ..good.clone()
        },
    ] {
        assert!(matches!(run(bad).await, Err(PublishError::Invalid(_))));
    }
}

#[tokio::test]
async fn qos_0_is_sent_without_acknowledgement_and_dropouts_are_missing() {
    let broker = Broker::start(Protocol::V311, vec![Act::take_all(&ACCEPT_311)]).await;
    let fleet = fleet(4, &[FaultKind::Dropout]);
    let options = Options {
        qos: Qos::AtMostOnce,
        connections: 2,
        fleet: Arc::clone(&fleet),
        ..options(&broker, Protocol::V311, 4_000)
    };
    let report = run(options).await.unwrap();
    let missing: u64 = (0..4)
        .flat_map(|sensor| fleet.episodes(sensor, 0..1_000))
        .map(|e| e.last_n - e.first_n + 1)
        .sum();
    assert!(missing > 400);
    assert_eq!(
        (report.sent, report.dropped_out),
        (4_000 - missing, missing)
    );
    assert_eq!((report.acked, report.unacked, report.latency), (0, 0, None));
    let seen = broker.seen();
    assert_eq!(seen.len() as u64, report.sent);
    assert!(seen.iter().all(|s| s.id == 0 && !s.dup));
    for s in seen {
        let (id, n) = key(&s.payload);
        assert_eq!(s.topic, format!("sensors/{id}/reading"));
        let sensor = id[1..].parse::<usize>().unwrap() - 1;
        assert!(fleet.episodes(sensor, n..n + 1).is_empty(), "{id} {n}");
    }
}

#[tokio::test]
async fn a_paced_run_takes_its_time_and_a_stop_ends_it() {
    let broker = Broker::start(Protocol::V5, vec![Act::take_all(&ACCEPT_5)]).await;
    let paced = Options {
        rate: Some(1_000.0),
        connections: 2,
        ..options(&broker, Protocol::V5, 300)
    };
    let report = run(paced).await.unwrap();
    assert_eq!(report.acked, 300);
    assert!(
        report.elapsed >= Duration::from_millis(299),
        "{:?}",
        report.elapsed
    );
    assert!(
        report.elapsed < Duration::from_secs(3),
        "{:?}",
        report.elapsed
    );

    let endless = Options {
        count: None,
        rate: Some(100.0),
        ..options(&broker, Protocol::V5, 0)
    };
    let (ask, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask.send_replace(true);
    });
    let mut last = None;
    let report = publish(endless, stop, |progress| last = Some(progress))
        .await
        .unwrap();
    assert!((10..=60).contains(&report.sent), "{}", report.sent);
    assert_eq!(report.acked, report.sent);
    let last = last.unwrap();
    assert_eq!(
        (last.sent, last.acked, last.trouble),
        (report.sent, report.acked, None)
    );
}

#[tokio::test]
async fn a_broker_that_stays_silent_is_left_for_a_new_connection() {
    let mute = Act {
        mute: true,
        ..Act::take_all(&ACCEPT_5)
    };
    let broker = Broker::start(Protocol::V5, vec![mute, Act::take_all(&ACCEPT_5)]).await;
    let options = Options {
        keep_alive: Duration::from_secs(1),
        ..options(&broker, Protocol::V5, 20)
    };
    let report = run(options).await.unwrap();
    assert_eq!((report.sent, report.acked, report.reconnects), (20, 20, 1));
}

#[tokio::test]
async fn a_stop_ends_a_run_whose_broker_is_gone() {
    let once = Act {
        drop_after: Some(3),
        ack: 0,
        ..Act::take_all(&ACCEPT_5)
    };
    let refuse = Act {
        connack: vec![0x20, 3, 0, 0x88, 0],
        ..once.clone()
    };
    let broker = Broker::start(Protocol::V5, vec![once, refuse]).await;
    let options = Options {
        grace: Duration::from_millis(50),
        ..options(&broker, Protocol::V5, 1_000_000)
    };
    let (ask, stop) = watch::channel(false);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        ask.send_replace(true);
    });
    let report = publish(options, stop, |_| {}).await.unwrap();
    assert_eq!(
        (report.acked, report.unacked, report.reconnects),
        (0, report.sent, 0)
    );
    assert!(broker.connects.lock().unwrap().len() >= 2);
}
