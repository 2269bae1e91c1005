//! Between the engine and its database: passes MongoDB's messages on, until it is told to be slow,
//! to be silent, to break connections, to lose answers or to give wrong ones.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Answers come this much later.
    Slow(Duration),
    /// Answers take ten times as long as they do.
    Tenth,
    /// Nothing passes; connections stay open.
    BlackHole,
    /// Every connection is closed, new ones at once.
    Closed,
    /// The answer to most inserts is lost together with its connection, after the server has done
    /// what was asked; seldom to the first one of a connection, or there would be pauses.
    LostAnswers,
    /// After so many bytes of answers a connection breaks, in the midst of one.
    CutAfter(usize),
    /// Inserts that hold these bytes are answered with an error of this code, and do not reach the
    /// server.
    Answer(&'static [u8], i32),
}

/// Requests without an answer by their numbers: when they came, and whether they insert.
type Asked = HashMap<[u8; 4], (Instant, bool)>;

struct Shared {
    upstream: SocketAddr,
    fault: Mutex<Fault>,
    open: Mutex<Vec<Weak<TcpStream>>>,
    inserts: AtomicU64,
    lost: AtomicU64,
    finds: AtomicU64,
}

/// A running proxy. It ends with the test's process.
pub(crate) struct FaultProxy {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultProxy {
    /// In front of `upstream`, without a fault.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            fault: Mutex::new(Fault::None),
            open: Mutex::default(),
            inserts: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            finds: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.serve(client);
            }
        });
        Self { addr, shared }
    }

    /// From now on, for open connections too.
    pub(crate) fn set(&self, fault: Fault) {
        let closes = matches!(fault, Fault::Closed);
        *lock(&self.shared.fault) = fault;
        if closes {
            for stream in lock(&self.shared.open).drain(..) {
                let _gone_already = stream.upgrade().map(|it| it.shutdown(Shutdown::Both));
            }
        }
    }

    /// Answers that were lost on purpose.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Commands `find` that came.
    pub(crate) fn finds(&self) -> u64 {
        self.shared.finds.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        lock(&self.fault).clone()
    }

    fn serve(self: &Arc<Self>, client: TcpStream) {
        if matches!(self.fault(), Fault::Closed) {
            return;
        }
        let Ok(server) = TcpStream::connect(self.upstream) else {
            return;
        };
        let (client, server) = (Arc::new(client), Arc::new(server));
        {
            let mut open = lock(&self.open);
            open.retain(|stream| stream.strong_count() > 0);
            open.extend([Arc::downgrade(&client), Arc::downgrade(&server)]);
        }
        let asked = Arc::new(Mutex::new(Asked::default()));
        let (to_client, from_server) = (Arc::clone(&client), Arc::clone(&server));
        let (shared, asking) = (Arc::clone(self), Arc::clone(&asked));
        std::thread::spawn(move || shared.requests(&client, &server, &asking));
        let shared = Arc::clone(self);
        std::thread::spawn(move || shared.answers(&from_server, &to_client, &asked));
    }

    fn requests(&self, mut client: &TcpStream, mut server: &TcpStream, asked: &Mutex<Asked>) {
        while let Some(message) = read_message(client) {
            self.hold();
            if first_key(&message) == b"find" {
                self.finds.fetch_add(1, Ordering::Relaxed);
            }
            let insert = first_key(&message) == b"insert";
            if insert
                && let Fault::Answer(mark, code) = self.fault()
                && (mark.is_empty() || message.windows(mark.len()).any(|bytes| bytes == mark))
            {
                if client.write_all(&error(&message, code)).is_err() {
                    break;
                }
                continue;
            }
            lock(asked).insert(
                [message[4], message[5], message[6], message[7]],
                (Instant::now(), insert),
            );
            if server.write_all(&message).is_err() {
                break;
            }
        }
        let _gone_already = server.shutdown(Shutdown::Both);
    }

    fn answers(&self, server: &TcpStream, mut client: &TcpStream, asked: &Mutex<Asked>) {
        let mut passed = 0;
        let mut first = true;
        while let Some(message) = read_message(server) {
            self.hold();
            let answered = [message[8], message[9], message[10], message[11]];
            let request = lock(asked).remove(&answered);
            let of_insert = request.is_some_and(|(_, insert)| insert);
            match self.fault() {
                Fault::Slow(pause) => std::thread::sleep(pause),
                Fault::Tenth => {
                    let took = request.map(|(since, _)| since.elapsed());
                    // What waits for news on purpose would look like a dead server.
                    let took = took.filter(|took| took.as_secs() < 1);
                    std::thread::sleep(9 * took.unwrap_or_default());
                }
                Fault::LostAnswers if of_insert => {
                    // By no rhythm that commands could fall into.
                    let nth = self.inserts.fetch_add(1, Ordering::Relaxed);
                    let die = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
                    let lost = if first { die == 0 } else { die < 6 };
                    first = false;
                    if lost {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
                Fault::CutAfter(bytes) if passed + message.len() > bytes => {
                    let part = bytes.saturating_sub(passed).min(message.len());
                    let _gone_already = client.write_all(&message[..part]);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                _ => {}
            }
            passed += message.len();
            if client.write_all(&message).is_err() {
                break;
            }
        }
        let _gone_already = client.shutdown(Shutdown::Both);
        let _gone_already = server.shutdown(Shutdown::Both);
    }

    /// Waits while nothing may pass.
    fn hold(&self) {
        while matches!(self.fault(), Fault::BlackHole) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One message of MongoDB's wire protocol: its length comes first.
fn read_message(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 16];
    stream.read_exact(&mut message).ok()?;
    let length = u32::from_le_bytes(*message.first_chunk()?) as usize;
    message.resize(length.max(16), 0);
    stream.read_exact(&mut message[16..]).ok()?;
    Some(message)
}

/// The name of the command in an `OP_MSG`: behind header, flags, section kind, document length and
/// element type.
fn first_key(message: &[u8]) -> &[u8] {
    const OP_MSG: [u8; 4] = 2013_u32.to_le_bytes();
    if message.get(12..16) != Some(&OP_MSG) {
        return b"";
    }
    let name = message.get(26..).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    &name[..end]
}

/// The answer `{ok: 0, code: …, errmsg: …}` to a message.
fn error(request: &[u8], code: i32) -> Vec<u8> {
    let mut elements = Vec::new();
    elements.extend_from_slice(b"\x01ok\0");
    elements.extend_from_slice(&0_f64.to_le_bytes());
    elements.extend_from_slice(b"\x10code\0");
    elements.extend_from_slice(&code.to_le_bytes());
    let words = b"made up by the test\0";
    elements.extend_from_slice(b"\x02errmsg\0");
    elements.extend_from_slice(&u32::try_from(words.len()).unwrap().to_le_bytes());
    elements.extend_from_slice(words);
    elements.push(0);
    let document = u32::try_from(elements.len() + 4).unwrap();

    let mut answer = Vec::new();
    answer.extend_from_slice(&(document + 16 + 5).to_le_bytes());
    answer.extend_from_slice(&1_u32.to_le_bytes());
    answer.extend_from_slice(&request[4..8]);
    answer.extend_from_slice(&2013_u32.to_le_bytes());
    answer.extend_from_slice(&[0; 5]);
    answer.extend_from_slice(&document.to_le_bytes());
    answer.extend_from_slice(&elements);
    answer
}
