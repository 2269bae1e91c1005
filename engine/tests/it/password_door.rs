//! A user and a password in front of a MongoDB that asks for none: SCRAM-SHA-256 (RFC 5802, RFC 7677)
//! as MongoDB speaks it, and nothing gets through to the server before it.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use sha2::{Digest as _, Sha256};
use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::tls_door::open;

const ROUNDS: u32 = 4096;
const SALT: &[u8] = b"salt of the tests";
const OP_MSG: i32 = 2013;
/// What MongoDB answers before somebody has said who they are.
const OPEN: [&str; 3] = ["hello", "isMaster", "ismaster"];

/// Takes connections and passes them on once they have proved that they know the password.
pub(crate) struct PasswordDoor {
    pub(crate) addr: SocketAddr,
    _runtime: Runtime,
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// PBKDF2 with one block (RFC 8018).
fn salted(password: &str) -> [u8; 32] {
    let mut last = hmac(password.as_bytes(), &[SALT, &1_u32.to_be_bytes()].concat());
    let mut sum = last;
    for _ in 1..ROUNDS {
        last = hmac(password.as_bytes(), &last);
        for (sum, byte) in sum.iter_mut().zip(last) {
            *sum ^= byte;
        }
    }
    sum
}

/// One message of MongoDB's protocol, its head included.
async fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = from.read_i32_le().await?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
    from.read_exact(&mut bytes[4..]).await?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The command, if it came as an `OP_MSG` whose first section it is.
fn command(message: &[u8]) -> Option<Document> {
    (number(message, 12) == OP_MSG && message[20] == 0)
        .then(|| Document::from_reader(&message[21..]).unwrap())
}

fn answer(to: &[u8], document: &Document) -> Vec<u8> {
    let body = document.to_vec().unwrap();
    let length = i32::try_from(21 + body.len()).unwrap();
    let head = [length, 1, number(to, 4), OP_MSG, 0];
    let head = head.into_iter().flat_map(i32::to_le_bytes);
    head.chain([0]).chain(body).collect()
}

fn refused(code: i32, words: &str) -> Document {
    doc! { "ok": 0.0, "errmsg": words, "code": code }
}

/// How far one connection is.
enum Talk {
    Nobody,
    /// What was said so far, which the proof is about.
    Asked(String),
    Known,
}

fn payload(command: &Document) -> String {
    let bytes = command.get_binary_generic("payload").unwrap();
    String::from_utf8(bytes.clone()).unwrap()
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let mut fields = text.split(',');
    fields.find_map(|field| field.strip_prefix(name)).unwrap()
}

fn says(text: String, done: bool) -> Document {
    let bytes = text.into_bytes();
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    };
    doc! { "ok": 1.0, "conversationId": 1, "done": done, "payload": payload }
}

impl Talk {
    fn begin(&mut self, user: &str, command: &Document) -> Document {
        let first = payload(command);
        let bare = first.strip_prefix("n,,").unwrap();
        if field(bare, "n=") != user {
            return refused(18, "Authentication failed.");
        }
        let nonce = format!("{}of-the-door", field(bare, "r="));
        let salt = BASE64.encode(SALT);
        let challenge = format!("r={nonce},s={salt},i={ROUNDS}");
        *self = Self::Asked(format!("{bare},{challenge}"));
        says(challenge, false)
    }

    fn prove(&mut self, password: &str, command: &Document) -> Document {
        let Self::Asked(said) = std::mem::replace(self, Self::Nobody) else {
            return refused(17, "No SASL session state found");
        };
        let last = payload(command);
        let (bare, proof) = last.rsplit_once(",p=").unwrap();
        let about = format!("{said},{bare}");
        let salted = salted(password);
        let stored = Sha256::digest(hmac(&salted, b"Client Key"));
        let mut key = BASE64.decode(proof).unwrap();
        for (key, byte) in key.iter_mut().zip(hmac(&stored, about.as_bytes())) {
            *key ^= byte;
        }
        if Sha256::digest(&key) != stored {
            return refused(18, "Authentication failed.");
        }
        *self = Self::Known;
        let signature = hmac(&hmac(&salted, b"Server Key"), about.as_bytes());
        says(format!("v={}", BASE64.encode(signature)), true)
    }

    /// The door's own answer; `None` if the server is to give one.
    fn answer(&mut self, user: &str, password: &str, command: &Document) -> Option<Document> {
        let name = command.keys().next().unwrap().as_str();
        match name {
            "saslStart" => Some(self.begin(user, command)),
            "saslContinue" => Some(self.prove(password, command)),
            _ if OPEN.contains(&name) || matches!(self, Self::Known) => None,
            _ => Some(refused(
                13,
                &format!("command {name} requires authentication"),
            )),
        }
    }
}

impl PasswordDoor {
    pub(crate) fn start(upstream: SocketAddr, user: &'static str, password: &'static str) -> Self {
        let (addr, runtime) = open(move |client| async move {
            // Until either side hangs up.
            let _ended = guard(client, upstream, user, password).await;
        });
        Self {
            addr,
            _runtime: runtime,
        }
    }
}

async fn guard(
    mut client: TcpStream,
    upstream: SocketAddr,
    user: &str,
    password: &str,
) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    let mut talk = Talk::Nobody;
    loop {
        let asked = message(&mut client).await?;
        let own = command(&asked).and_then(|command| talk.answer(user, password, &command));
        let answered = if let Some(document) = own {
            answer(&asked, &document)
        } else {
            server.write_all(&asked).await?;
            message(&mut server).await?
        };
        client.write_all(&answered).await?;
    }
}
