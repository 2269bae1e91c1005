//! Mail: one builder of messages, and two ways for them: into files, and to a mail server ([`smtp`]).
//! Only this file and those below know lettre.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lettre::Message;
use lettre::message::header::{
    ContentDisposition, ContentId, ContentTransferEncoding, ContentType,
};
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Mailboxes, MultiPart, SinglePart};

use super::chart::{self, Chart};
use super::letter::{Letter, Links, PICTURE};
use super::text::Voice;
use super::{Channel, History, Undelivered, Why};
use crate::score::incident::{Incident, Notice};

pub mod smtp;

/// Name of the channel, whichever way the mails take: what one could not deliver, the other may.
pub const NAME: &str = "mail";

/// How much of the past a picture shows, ms.
const PICTURE_MS: i64 = 6 * 3_600_000;

/// Makes a header of which only the value is ours to choose.
macro_rules! header {
    ($(#[$doc:meta])* $type:ident, $name:literal, $value:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        struct $type;

        impl Header for $type {
            fn name() -> HeaderName {
                HeaderName::new_from_ascii_str($name)
            }

            fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Ok(Self)
            }

            fn display(&self) -> HeaderValue {
                HeaderValue::new(Self::name(), $value.to_owned())
            }
        }
    };
}

header!(
    /// RFC 3834: nobody should answer this automatically.
    AutoSubmitted, "Auto-Submitted", "auto-generated"
);
header!(
    /// RFC 2919: one handle to filter all of them by.
    ListId, "List-Id", "Vigie <alerts.vigie.localhost>"
);

/// An address that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not a mail address")]
pub struct BadAddress {
    /// As configured.
    pub address: String,
}

/// Writes the mails: from whom, to whom, in which words.
pub struct Letters {
    from: Mailbox,
    to: Mailboxes,
    voice: Voice,
    history: Option<Box<dyn History>>,
    links: Option<Links>,
    /// Recipients in 24 hours, for the end of each mail.
    daily: Option<u32>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters")
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl Letters {
    /// `from` is one address, `to` one or several, with commas between them; each may carry a name:
    /// `Cellar <cellar@example.org>`.
    ///
    /// # Errors
    /// [`BadAddress`] if either is none.
    pub fn new(from: &str, to: &str, voice: Voice) -> Result<Self, BadAddress> {
        let bad = |address: &str| BadAddress {
            address: address.to_owned(),
        };
        Ok(Self {
            from: from.parse().map_err(|_| bad(from))?,
            to: to.parse().map_err(|_| bad(to))?,
            voice,
            history: None,
            links: None,
            daily: None,
        })
    }

    /// With pictures of what `history` knows, and with links to answer by.
    #[must_use]
    pub fn with(mut self, history: Box<dyn History>, links: Option<Links>) -> Self {
        (self.history, self.links) = (Some(history), links);
        self
    }

    /// How many people get each mail.
    pub fn recipients(&self) -> u32 {
        u32::try_from(self.to.iter().count()).unwrap_or(u32::MAX)
    }

    /// One notice is a mail in the thread of its incident: the same subject, and each refers to the
    /// first. Several are a digest. Message-ID and Date are made of the notices, so that delivering
    /// them twice is one mail twice.
    fn about(&self, notices: &[Notice], used: u32) -> Result<Message, Unbuildable> {
        let (letter, picture) = match notices {
            [] => return Err(Unbuildable::Empty),
            [notice] => self.letter(notice),
            notices => (Letter::digest(notices, &self.voice), None),
        };
        let letter = match self.daily {
            Some(daily) => letter.with_budget(&self.voice, used, daily),
            None => letter,
        };
        let (first, last) = (&notices[0], &notices[notices.len() - 1]);
        let root = thread(&first.incident);
        let mut builder = self.builder().subject(letter.subject.clone());
        builder = if notices.len() > 1 {
            let count = notices.len();
            builder.message_id(Some(format!("<{root}.{}.{count}@vigie>", first.number)))
        } else {
            builder.message_id(Some(format!("<{root}.{}@vigie>", first.number)))
        };
        if notices.len() == 1 && first.number > 1 {
            let opening = format!("<{root}.1@vigie>");
            builder = builder.in_reply_to(opening.clone()).references(opening);
        }
        if let Ok(ms) = u64::try_from(last.at_ms) {
            builder = builder.date(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms));
        }
        let html = SinglePart::html(letter.html());
        let rich = match picture {
            None => MultiPart::alternative()
                .singlepart(SinglePart::plain(letter.text()))
                .singlepart(html),
            Some(png) => MultiPart::alternative()
                .singlepart(SinglePart::plain(letter.text()))
                .multipart(
                    MultiPart::related()
                        .singlepart(html)
                        .singlepart(inline(png)?),
                ),
        };
        Ok(builder.multipart(rich)?)
    }

    fn builder(&self) -> lettre::message::MessageBuilder {
        let builder = Message::builder().from(self.from.clone());
        let to = self.to.iter().cloned();
        to.fold(builder, lettre::message::MessageBuilder::to)
            .header(AutoSubmitted)
            .header(ListId)
    }

    fn letter(&self, notice: &Notice) -> (Letter, Option<Vec<u8>>) {
        let incident = &notice.incident;
        let verdict = &incident.first;
        let (mut points, mut span) = (Vec::new(), (0, 0));
        if let (Some(history), Some(sensor), Some(quantity)) =
            (&self.history, &incident.sensor, verdict.quantity)
        {
            let to_ms = notice.at_ms.max(incident.opened_ms);
            // What sends often is asked about less of its past.
            for length_ms in [PICTURE_MS / 36, PICTURE_MS] {
                span = (to_ms - length_ms, to_ms);
                points = history.past(sensor, quantity, span);
                if points.len() > 1000 {
                    break;
                }
            }
        }
        let chart = Chart {
            points: &points,
            span,
            since_ms: verdict.since_ms.max(span.0),
            expected: Some(verdict.expected).filter(|expected| expected.is_finite()),
        };
        let picture = chart::png(&chart);
        let seconds = (span.1 - span.0) as f64 / 1000.0;
        let words = chart::extent(&points, span)
            .filter(|_| picture.is_some())
            .map(|extent| self.voice.extent(verdict, extent, seconds));
        let history = self.history.as_ref().zip(incident.sensor.as_ref());
        let device = history.and_then(|(history, sensor)| history.device(sensor));
        let links = self.links.as_ref();
        let letter = Letter::about(notice, &self.voice, words, device.as_deref(), links);
        (letter, picture)
    }
}

/// A picture that stands in the text.
fn inline(png: Vec<u8>) -> Result<SinglePart, Unbuildable> {
    let kind = ContentType::parse("image/png").map_err(|_| Unbuildable::Empty)?;
    Ok(SinglePart::builder()
        .header(kind)
        .header(ContentDisposition::inline())
        .header(ContentId::from(format!("<{PICTURE}>")))
        .header(ContentTransferEncoding::Base64)
        .body(png))
}

/// What the ids of an incident's mails begin with: RFC 5322 §3.2.3 has no colon in an id, which
/// sensors' names may hold, but has a slash.
fn thread(incident: &Incident) -> String {
    incident.id().replace(':', "/")
}

/// There is no mail.
#[derive(Debug, thiserror::Error)]
enum Unbuildable {
    #[error("there is nothing to say")]
    Empty,
    #[error(transparent)]
    Mail(#[from] lettre::error::Error),
}

/// Writes a mail into `dir`, under a name made of the notice's id: writing it twice leaves one file.
fn put_down(dir: &Path, notices: &[Notice], message: &Message) -> io::Result<()> {
    let Some(first) = notices.first() else {
        return Ok(());
    };
    // Sensor ids may hold colons, which some file systems refuse.
    let mut name = format!("{}-{}", first.incident.id().replace(':', "_"), first.number);
    if notices.len() > 1 {
        name += &format!("-and-{}-more", notices.len() - 1);
    }
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
    fn name(&self) -> &str {
        NAME
    }

    fn deliver(&mut self, notices: &[Notice], used: u32) -> Result<(), Undelivered> {
        let failed = |what: &str, source: Box<dyn std::error::Error + Send + Sync>| Undelivered {
            why: Why::Unavailable,
            what: format!("{what} in {}", self.dir.display()),
            source: Some(source),
        };
        let message = self
            .letters
            .about(notices, used)
            .map_err(|error| failed("cannot build a mail for a file", error.into()))?;
        put_down(&self.dir, notices, &message)
            .map_err(|error| failed("cannot write a mail", error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::alert::chart::Point;
    use crate::alert::text::tests::{notice, silence};
    use crate::score::incident::NoticeKind;
    use crate::stats::device::Device;
    use vigie_wire::{QuantityId, SensorId};

    struct Steady;

    impl History for Steady {
        fn past(&self, _: &SensorId, _: QuantityId, (from, to): (i64, i64)) -> Vec<Point> {
            let point = |at_ms| Point {
                at_ms,
                value: 20.0,
                anomaly: false,
            };
            (from..to).step_by(60_000).map(point).collect()
        }

        fn device(&self, _: &SensorId) -> Option<Box<Device>> {
            None
        }
    }

    fn letters() -> Letters {
        let voice = Voice::english(Arc::default());
        let to = "me@example.org, Ada <ada@example.org>";
        let letters = Letters::new("vigie@localhost", to, voice).unwrap();
        letters.with(Box::new(Steady), None)
    }

    #[test]
    fn one_file_per_notice_and_one_thread_per_incident() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = EmlFiles::new(dir.path().join("mail"), letters());
        let mut opened = silence(NoticeKind::Opened, 1);
        opened.incident.sensor = Some("hall:C001".try_into().unwrap());
        let mut over = opened.clone();
        (over.number, over.kind) = (2, NoticeKind::Resolved);
        for notices in [[opened.clone()], [opened.clone()], [over.clone()]] {
            files.deliver(&notices, 0).unwrap();
        }
        files.deliver(&[opened, over], 0).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path().join("mail"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "hall_C001-1790000000000-silence-1-and-1-more.eml",
                "hall_C001-1790000000000-silence-1.eml",
                "hall_C001-1790000000000-silence-2.eml"
            ]
        );
        let read = |name: &str| fs::read_to_string(dir.path().join("mail").join(name)).unwrap();
        let (first, second) = (read(&names[1]), read(&names[2]));
        let root = "<hall/C001-1790000000000-silence.1@vigie>";
        assert!(first.contains(&format!("Message-ID: {root}")), "{first}");
        assert!(first.contains("Auto-Submitted: auto-generated") && first.contains("50 s"));
        assert!(
            first.contains("List-Id: Vigie <alerts.vigie.localhost>"),
            "{first}"
        );
        assert!(second.contains(&format!("In-Reply-To: {root}")), "{second}");
        let digest = read(&names[0]);
        assert!(digest.contains("Subject: [Vigie] 1 incident"), "{digest}");
        assert!(
            !digest.contains("In-Reply-To"),
            "a digest is in no thread: {digest}"
        );
    }

    #[test]
    fn a_mail_has_text_html_and_the_picture_that_it_shows() {
        let mail = letters().about(&[notice(NoticeKind::Opened)], 1).unwrap();
        let mail = String::from_utf8(mail.formatted()).unwrap();
        let mail = mail.replace("=\r\n", "");
        for part in [
            "Content-Type: multipart/alternative",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Type: multipart/related",
            "Content-Type: text/html; charset=utf-8",
            "Content-Type: image/png",
            "Content-ID: <chart>",
            "cid:chart",
            "20 =C2=B0C to 20 =C2=B0C in 6 h",
            "To: me@example.org, Ada <ada@example.org>",
        ] {
            assert!(mail.contains(part), "{part} in {mail}");
        }
        assert_eq!(letters().recipients(), 2);
        let voice = || Voice::english(Arc::default());
        assert!(Letters::new("me@example.org", "nobody", voice()).is_err());
    }
}
