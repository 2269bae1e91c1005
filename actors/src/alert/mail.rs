//! Mail: one builder of messages, and two ways for them: into files, and to a mail server ([`smtp`]).
//! Only this file and those below know lettre.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lettre::Message;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, header};

use super::{Channel, Undelivered, Why, text};
use crate::quantity::Catalogue;
use crate::score::incident::Notice;

pub mod smtp;

/// Name of the channel, whichever way the mails take: what one could not deliver, the other may.
const NAME: &str = "mail";

/// RFC 3834: nobody should answer this automatically.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// An address that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not a mail address")]
pub struct BadAddress {
    /// As configured.
    pub address: String,
}

/// Writes the mails: from whom, to whom, in which words.
#[derive(Debug, Clone)]
pub struct Letters {
    from: Mailbox,
    to: Mailbox,
    catalogue: Arc<Catalogue>,
}

impl Letters {
    /// `from` and `to` may carry a name: `Cellar <cellar@example.org>`.
    ///
    /// # Errors
    /// [`BadAddress`] if either is not one mail address.
    pub fn new(from: &str, to: &str, catalogue: Arc<Catalogue>) -> Result<Self, BadAddress> {
        let mailbox = |address: &str| {
            address.parse().map_err(|_| BadAddress {
                address: address.to_owned(),
            })
        };
        Ok(Self {
            from: mailbox(from)?,
            to: mailbox(to)?,
            catalogue,
        })
    }

    /// The mails about one incident are one thread: same subject, and each refers to the first.
    /// Message-ID and Date are made of the notice, so that delivering it twice is one mail twice.
    fn about(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        // RFC 5322 §3.2.3 has no colon in an id, which sensors' names may hold, but has a slash.
        let incident = notice.incident.id().replace(':', "/");
        let id = |number: u32| format!("<{incident}.{number}@vigie>");
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(text::subject(notice, &self.catalogue))
            .message_id(Some(id(notice.number)))
            .header(AutoSubmitted)
            .header(header::ContentType::TEXT_PLAIN);
        if let Ok(ms) = u64::try_from(notice.at_ms) {
            builder = builder.date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms));
        }
        if notice.number > 1 {
            builder = builder.in_reply_to(id(1)).references(id(1));
        }
        builder.body(text::body(notice, &self.catalogue))
    }
}

/// Writes a mail into `dir`, under a name made of the notice's id: writing it twice leaves one file.
fn put_down(dir: &Path, notice: &Notice, message: &Message) -> io::Result<()> {
    // Sensor ids may hold colons, which some file systems refuse.
    let name = format!(
        "{}-{}",
        notice.incident.id().replace(':', "_"),
        notice.number
    );
    let path = dir.join(format!("{name}.eml"));
    let part = dir.join(format!(".{name}.part"));
    fs::create_dir_all(dir)?;
    let mut file = File::create(&part)?;
    file.write_all(&message.formatted())?;
    file.sync_all()?;
    fs::rename(&part, &path)
}

/// Writes `.eml` files.
#[derive(Debug)]
pub struct EmlFiles {
    dir: PathBuf,
    letters: Letters,
}

impl EmlFiles {
    /// Into `dir`, which is made when the first mail comes.
    pub fn new(dir: PathBuf, letters: Letters) -> Self {
        Self { dir, letters }
    }
}

impl Channel for EmlFiles {
    fn name(&self) -> &'static str {
        NAME
    }

    fn deliver(&mut self, notice: &Notice) -> Result<(), Undelivered> {
        let failed = |what: &str, source: Box<dyn std::error::Error + Send + Sync>| Undelivered {
            why: Why::Unavailable,
            what: format!("{what} in {}", self.dir.display()),
            source: Some(source),
        };
        let message = self
            .letters
            .about(notice)
            .map_err(|error| failed("cannot build a mail for a file", error.into()))?;
        put_down(&self.dir, notice, &message)
            .map_err(|error| failed("cannot write a mail", error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::incident::{Incident, NoticeKind};
    use crate::score::rules::{Rule, Severity, Verdict};

    #[test]
    fn one_file_per_notice_and_one_thread_per_incident() {
        let dir = tempfile::tempdir().unwrap();
        let letters = Letters::new("vigie@localhost", "me@example.org", Arc::default()).unwrap();
        let mut files = EmlFiles::new(dir.path().join("mail"), letters);
        let verdict = Verdict {
            rule: Rule::Silence,
            quantity: None,
            observed: 50.0,
            expected: 10.0,
            line: 40.0,
            ratio: 2.5,
            since_ms: 1_790_000_000_000,
            evidence: Vec::new(),
        };
        let mut notice = Notice {
            number: 1,
            kind: NoticeKind::Opened,
            incident: Incident {
                sensor: "hall:C001".try_into().unwrap(),
                opened_ms: 1_790_000_050_000,
                last_ms: 1_790_000_050_000,
                near_ms: 1_790_000_050_000,
                resolved_ms: None,
                first: verdict.clone(),
                also: Vec::new(),
                worst: verdict,
                severity: Severity::Critical,
                anomalies: 1,
                silent: true,
                notices: 1,
            },
            at_ms: 1_790_000_050_000,
        };
        files.deliver(&notice).unwrap();
        files.deliver(&notice).unwrap();
        (notice.number, notice.kind) = (2, NoticeKind::Resolved);
        files.deliver(&notice).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path().join("mail"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "hall_C001-1790000050000-1.eml",
                "hall_C001-1790000050000-2.eml"
            ]
        );
        let read = |name: &str| fs::read_to_string(dir.path().join("mail").join(name)).unwrap();
        let (first, second) = (read(&names[0]), read(&names[1]));
        let root = "<hall/C001-1790000050000.1@vigie>";
        assert!(first.contains(&format!("Message-ID: {root}")), "{first}");
        assert!(first.contains("Auto-Submitted: auto-generated") && first.contains("50 s"));
        assert!(second.contains(&format!("In-Reply-To: {root}")), "{second}");
        assert!(Letters::new("me@example.org", "nobody", Arc::default()).is_err());
    }
}
