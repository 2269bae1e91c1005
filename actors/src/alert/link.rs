//! Signed links, by which a person answers a mail without a password, and the sessions of browsers:
//! HMAC-SHA256 (RFC 2104) over what it is for and until when. Pure.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// See [`crate::score::incident::Deed`].
    Acknowledge,
    /// See [`crate::score::incident::Deed`].
    FalseAlarm,
    /// For a day.
    Silence,
}

impl Answer {
    /// All answers.
    pub const ALL: [Self; 3] = [Self::Acknowledge, Self::FalseAlarm, Self::Silence];

    /// As in addresses and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => "ack",
            Self::FalseAlarm => "false-alarm",
            Self::Silence => "silence",
        }
    }

    /// Inverse of [`Answer::name`].
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| answer.name() == name)
    }
}

/// Makes links, and knows its own.
#[derive(Clone)]
pub struct Signer {
    key: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// With a secret of its own.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    fn mac(&self, incident: &str, answer: Answer, until_ms: i64) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        // Ids hold no line ends.
        mac.update(format!("{incident}\n{}\n{until_ms}", answer.name()).as_bytes());
        Some(mac)
    }

    fn session_mac(&self, token: &str, until_ms: i64) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        // No answer has this name, so it is never the message of a link.
        mac.update(format!("session\nof a browser\n{until_ms}\n{token}").as_bytes());
        Some(mac)
    }

    /// What a browser shows in place of the token until `until_ms`: it ends with the token, too.
    pub fn session(&self, token: &str, until_ms: i64) -> String {
        let mac = self.session_mac(token, until_ms);
        let bytes = mac.map(|mac| mac.finalize().into_bytes());
        let signature = bytes.map(|bytes| hex(&bytes)).unwrap_or_default();
        format!("{until_ms}.{signature}")
    }

    /// Whether a session is one of ours, of this token, and not over.
    pub fn knows_session(&self, session: &str, token: &str, now_ms: i64) -> bool {
        let Some((until, signature)) = session.split_once('.') else {
            return false;
        };
        let (Ok(until_ms), Some(bytes)) = (until.parse(), unhex(signature)) else {
            return false;
        };
        let mac = self.session_mac(token, until_ms);
        mac.is_some_and(|mac| mac.verify_slice(&bytes).is_ok()) && now_ms < until_ms
    }

    /// Path and query of a link that works until `until_ms` (ms since 1970 UTC).
    pub fn path(&self, incident: &str, answer: Answer, until_ms: i64) -> String {
        let mac = self.mac(incident, answer, until_ms);
        let bytes = mac.map(|mac| mac.finalize().into_bytes());
        let signature = bytes.map(|bytes| hex(&bytes)).unwrap_or_default();
        // Of what ids may hold, only the colon has a meaning in some addresses.
        let incident = incident.replace(':', "%3A");
        let answer = answer.name();
        format!("/incidents/{incident}/{answer}?until={until_ms}&signature={signature}")
    }

    /// Whether a link with this signature is one of ours, and still works. Takes the same time
    /// whatever is wrong with the signature.
    pub fn knows(
        &self,
        incident: &str,
        answer: Answer,
        until_ms: i64,
        signature: &str,
        now_ms: i64,
    ) -> bool {
        let (Some(mac), Some(bytes)) = (self.mac(incident, answer, until_ms), unhex(signature))
        else {
            return false;
        };
        mac.verify_slice(&bytes).is_ok() && now_ms < until_ms
    }
}

/// HMAC-SHA256 of `message`, in lower-case hexadecimal digits.
pub fn hmac_hex(key: &[u8], message: &[u8]) -> String {
    // A key of any length will do.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(message);
            hex(&mac.finalize().into_bytes())
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| bytes.collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_one_thing_to_one_incident_for_some_time() {
        let signer = Signer::new([7; 32]);
        let path = signer.path("hall:C001-17", Answer::Acknowledge, 1000);
        let (_, signature) = path.rsplit_once('=').unwrap();
        assert!(
            path.starts_with("/incidents/hall%3AC001-17/ack?until=1000&"),
            "{path}"
        );
        let knows = |id, answer, until, signature: &str, now| {
            signer.knows(id, answer, until, signature, now)
        };
        let ack = Answer::Acknowledge;
        assert!(knows("hall:C001-17", ack, 1000, signature, 999));
        for (id, answer, until, now) in [
            ("hall:C001-17", ack, 1000, 1000),
            ("hall:C001-17", ack, 2000, 999),
            ("hall:C001-18", ack, 1000, 999),
            ("hall:C001-17", Answer::FalseAlarm, 1000, 999),
        ] {
            assert!(
                !knows(id, answer, until, signature, now),
                "{id} {until} {now}"
            );
        }
        for forged in ["", "0", "zz", &signature[2..]] {
            assert!(!knows("hall:C001-17", ack, 1000, forged, 999));
        }
        assert!(!Signer::new([8; 32]).knows("hall:C001-17", ack, 1000, signature, 999));
        assert!(!format!("{signer:?}").contains('7'));
    }

    #[test]
    fn a_session_ends_with_its_time_and_with_its_token() {
        let signer = Signer::new([7; 32]);
        let session = signer.session("a long token", 1000);
        assert!(!session.contains("token"));
        assert!(signer.knows_session(&session, "a long token", 999));
        assert!(!signer.knows_session(&session, "a long token", 1000));
        assert!(!signer.knows_session(&session, "another one", 999));
        let (_, signature) = session.split_once('.').unwrap();
        for forged in ["", ".", "1000.", &format!("2000.{signature}"), signature] {
            assert!(!signer.knows_session(forged, "a long token", 999));
        }
        assert!(!Signer::new([8; 32]).knows_session(&session, "a long token", 999));
    }

    /// RFC 4231, test case 2.
    #[test]
    fn the_digest_is_the_standard_one() {
        assert_eq!(
            hmac_hex(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
