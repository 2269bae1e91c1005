//! Mail to a server (RFC 5321), over TLS: from the start at port 465, else by STARTTLS (RFC 3207),
//! which is required.
//!
//! Each mail has a connection of its own. A connection that somebody lost patience with still owes
//! an answer, which the next mail would take for its own.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, SmtpConnection, TlsParameters,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use secrecy::{ExposeSecret, SecretString};

use super::{Letters, NAME, Unbuildable, put_down};
use crate::alert::budget::Budget;
use crate::alert::{Channel, Undelivered, Why};
use crate::score::incident::Notice;
use crate::tls;

/// The port at which TLS comes first (RFC 8314).
const TLS_FROM_THE_START: u16 = 465;

/// Where Google makes app passwords.
pub const APP_PASSWORDS: &str = "https://myaccount.google.com/apppasswords";

/// Longest wait for one answer of the server, but for that to the whole mail.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait for everything before the text.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Longest wait for the answer to the goodbye, of which nothing depends.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// When a mail is tried again for those whom the server refused for now, while others have it.
const AGAIN_FOR_THE_REST: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(15),
];

/// A mail server, and who we are there.
#[derive(Debug, Clone)]
pub struct Server {
    /// Name or address, which the certificate must be for.
    pub host: String,
    /// 465: TLS from the start. Any other: STARTTLS.
    pub port: u16,
    /// False: no TLS at all. Only right for a server on this machine.
    pub tls: bool,
    /// PEM file with the CA of the server's certificate; without it, those that this system trusts.
    pub ca_file: Option<PathBuf>,
    /// User name and password, if the server wants them.
    pub login: Option<(String, SecretString)>,
    /// Longest wait for the answer to a whole mail. Who loses patience with a server that looks at
    /// mails for long gets it delivered twice; RFC 5321 §4.5.3.2.6 asks for ten minutes.
    pub answer_within: Duration,
}

/// Sends mails.
#[derive(Debug)]
pub struct Smtp {
    server: Server,
    letters: Letters,
    budget: Budget,
    /// Where mails go that the server refuses for good.
    undeliverable: PathBuf,
    /// Those who did not get the last mail, because the server refused them for now again and
    /// again: nobody waits for them a second time.
    left_out: BTreeSet<Address>,
    /// Shared with the threads of mails that were given up and may still hang.
    hanging: Arc<()>,
}

/// So many of them may hang before no further one is tried.
const HANGING: usize = 3;

impl Smtp {
    /// Mails that the server refuses for good are written into the directory `undeliverable`. So
    /// many recipients may get one in 24 hours, the last `reserve` of them of what is critical only.
    pub fn new(
        server: Server,
        mut letters: Letters,
        undeliverable: PathBuf,
        (daily, reserve): (u32, u32),
    ) -> Self {
        letters.daily = Some(daily);
        let budget = Budget {
            daily,
            reserve,
            recipients: letters.recipients(),
        };
        Self {
            server,
            letters,
            budget,
            undeliverable,
            left_out: BTreeSet::new(),
            hanging: Arc::default(),
        }
    }

    /// Sends one notice, and says what the server answers to each step.
    ///
    /// # Errors
    /// The step that failed, and what to do.
    pub fn test(&self, notice: &Notice, say: &mut dyn FnMut(&str)) -> Result<(), Undelivered> {
        let message = self
            .letters
            .about(std::slice::from_ref(notice), 0)
            .map_err(unbuildable)?;
        let (from, to) = (message.envelope().from(), message.envelope().to());
        let patience = self.server.answer_within.as_secs();
        let receivers =
            self.server
                .send(from, to, &message.formatted(), &mut |step| match step {
                    Step::Said(words) => say(words),
                    Step::Text => {
                        say(&format!("text follows; it may take {patience} s to answer"));
                    }
                })?;
        if receivers.have_it.is_empty() {
            return Err(self.server.nobody_for_now(&receivers));
        }
        Ok(())
    }

    /// To those whom the server accepts, at once; for those whom it refuses for now it is asked
    /// again, a few times. Whoever does not get it is told.
    fn send_to_all(&mut self, message: &Message) -> Result<(), Undelivered> {
        let mail = message.headers().get_raw("Message-ID").unwrap_or_default();
        let mut to = message.envelope().to().to_vec();
        let mut pauses = AGAIN_FOR_THE_REST.iter();
        let mut somebody_has_it = false;
        loop {
            let receivers = match self.send(message, &to) {
                Err(refused) if somebody_has_it && refused.why == Why::Undeliverable => Receivers {
                    never: vec![(listed(&to), refused.what)],
                    ..Receivers::default()
                },
                sent => sent?,
            };
            somebody_has_it |= !receivers.have_it.is_empty();
            if !somebody_has_it && !receivers.not_now.is_empty() {
                return Err(self.server.nobody_for_now(&receivers));
            }
            for (receivers, error) in receivers.never {
                tracing::error!(
                    mail,
                    receivers,
                    error,
                    "did NOT get a mail that others have: check email.email_to"
                );
            }
            for receiver in &receivers.have_it {
                self.left_out.remove(receiver);
            }
            let said: Vec<String>;
            (to, said) = receivers.not_now.into_iter().unzip();
            if to.is_empty() {
                return Ok(());
            }
            let (receivers, error) = (listed(&to), said.join("; "));
            let waited_before = to.iter().all(|one| self.left_out.contains(one));
            let Some(pause) = pauses.next().filter(|_| !waited_before) else {
                tracing::error!(
                    mail,
                    receivers,
                    error,
                    "did NOT get a mail that others have, refused for now again and again: check \
                     email.email_to, and whether the mailbox is full"
                );
                self.left_out.extend(to);
                return Ok(());
            };
            tracing::warn!(
                mail,
                receivers,
                error,
                ?pause,
                "refused for now, and tried again; others have the mail"
            );
            std::thread::sleep(*pause);
        }
    }

    /// Sent means that the server has answered 250 to the whole mail.
    fn send(&self, message: &Message, to: &[Address]) -> Result<Receivers, Undelivered> {
        let (from, to) = (message.envelope().from().cloned(), to.to_vec());
        let bytes = message.formatted();
        if Arc::strong_count(&self.hanging) > HANGING {
            return Err(Undelivered {
                why: Why::Unavailable,
                what: format!("{} still hangs on earlier mails", self.server.host),
                source: None,
            });
        }
        let (report, reports) = mpsc::channel();
        let (server, hanging) = (self.server.clone(), Arc::clone(&self.hanging));
        // The limits of the transport are those of single answers, and a server may drip. So this
        // one is watched from outside; whatever becomes of it after that, nobody listens any more.
        std::thread::Builder::new()
            .name("smtp".to_owned())
            .spawn(move || {
                let result = server.send(from.as_ref(), &to, &bytes, &mut |step| {
                    if matches!(step, Step::Text) {
                        let _nobody_waits = report.send(Report::Text);
                    }
                });
                let _nobody_waits = report.send(Report::Ended(result));
                drop(hanging);
            })
            .map_err(|error| Undelivered {
                why: Why::Unavailable,
                what: "cannot start a thread for a mail".to_owned(),
                source: Some(error.into()),
            })?;
        // The answer to the text ends itself when time is up; this is for one that drips.
        let answer_within = self.server.answer_within + GOODBYE_WITHIN * 2;
        let (report, what, within) = match reports.recv_timeout(READY_WITHIN) {
            Ok(Report::Text) => {
                let report = reports.recv_timeout(answer_within);
                (report, "take the mail", answer_within)
            }
            ended => (ended, "ask for the text", READY_WITHIN),
        };
        if let Ok(Report::Ended(result)) = report {
            return result;
        }
        let (host, port) = (&self.server.host, self.server.port);
        let seconds = within.as_secs();
        Err(Undelivered {
            why: Why::Unavailable,
            what: format!("{host}:{port} did not {what} within {seconds} s"),
            source: None,
        })
    }
}

/// What happens while a mail is sent.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    /// For people.
    Said(&'a str),
    /// The text goes out; from here on the server may take its time.
    Text,
}

/// The same, for whoever waits for it.
enum Report {
    Text,
    Ended(Result<Receivers, Undelivered>),
}

/// What became of those whom a mail is for.
#[derive(Debug, Default)]
struct Receivers {
    /// The server has answered 250 to the text for them.
    have_it: Vec<Address>,
    /// Refused for now, with the server's words.
    not_now: Vec<(Address, String)>,
    /// Refused for good, with the server's words.
    never: Vec<(String, String)>,
}

fn listed(addresses: &[Address]) -> String {
    let addresses: Vec<&str> = addresses.iter().map(AsRef::as_ref).collect();
    addresses.join(", ")
}

fn unbuildable(error: Unbuildable) -> Undelivered {
    Undelivered {
        why: Why::Undeliverable,
        what: "cannot build a mail".to_owned(),
        source: Some(error.into()),
    }
}

impl Channel for Smtp {
    fn name(&self) -> &str {
        NAME
    }

    fn budget(&self) -> Option<Budget> {
        Some(self.budget)
    }

    fn deliver(&mut self, notices: &[Notice], used: u32) -> Result<(), Undelivered> {
        let message = self.letters.about(notices, used).map_err(unbuildable)?;
        let Err(mut undelivered) = self.send_to_all(&message) else {
            return Ok(());
        };
        if undelivered.why == Why::Undeliverable {
            let dir = self.undeliverable.display();
            match put_down(&self.undeliverable, notices, &message) {
                Ok(()) => undelivered.what += &format!("; it was written into {dir}"),
                // Then it has to stay where it is.
                Err(error) => {
                    undelivered.why = Why::Unavailable;
                    undelivered.what += &format!("; it cannot be written into {dir}: {error}");
                }
            }
        }
        Err(undelivered)
    }
}

/// What a refusal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Every mail.
    All,
    /// The one that is being sent.
    This,
}

impl Server {
    /// Whether TLS can be set up; nothing is connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        match self.tls.then(|| self.tls_parameters()).transpose() {
            Ok(_usable) => Ok(()),
            Err(Undelivered { what, source, .. }) => Err(match source {
                Some(source) => format!("{what}: {source}"),
                None => what,
            }),
        }
    }

    /// Step by step, because it matters which one the server refuses: the connection and the sender
    /// concern all mails, only the receivers and the text concern this one. `say` hears of each.
    fn send(
        &self,
        from: Option<&Address>,
        to: &[Address],
        message: &[u8],
        tell: &mut dyn FnMut(Step<'_>),
    ) -> Result<Receivers, Undelivered> {
        let all = |error: smtp::Error| self.explain(&error, About::All, ANSWER_WITHIN);
        let this = |error: smtp::Error| self.explain(&error, About::This, ANSWER_WITHIN);
        let mut say = |words: &str| tell(Step::Said(words));
        let mut connection = self.connect(&mut say)?;
        let sender = Mail::new(from.cloned(), Vec::new());
        let answer = connection.command(sender).map_err(all)?;
        say(&format!("sender accepted: {}", words(&answer)));
        let mut receivers = Receivers::default();
        let mut refused = None;
        for receiver in to {
            match connection.command(Rcpt::new(receiver.clone(), Vec::new())) {
                Ok(answer) => {
                    receivers.have_it.push(receiver.clone());
                    say(&format!("{receiver} accepted: {}", words(&answer)));
                }
                // The others get it all the same.
                Err(error) if error.is_permanent() && !is_quota(&error_words(&error)) => {
                    let words = error_words(&error);
                    say(&format!("{receiver} REFUSED: {words}"));
                    receivers.never.push((receiver.to_string(), words));
                    refused = Some(error);
                }
                // 421 is a goodbye.
                Err(error)
                    if error.is_transient() && error.status().map(u16::from) != Some(421) =>
                {
                    let words = error_words(&error);
                    say(&format!("{receiver} REFUSED for now: {words}"));
                    receivers.not_now.push((receiver.clone(), words));
                }
                Err(error) => return Err(this(error)),
            }
        }
        if receivers.have_it.is_empty() {
            return match refused {
                Some(error) if receivers.not_now.is_empty() => Err(this(error)),
                _ => Ok(receivers),
            };
        }
        connection.command(Data).map_err(this)?;
        tell(Step::Text);
        let _as_it_was = connection.set_timeout(Some(self.answer_within));
        let late = |error: smtp::Error| self.explain(&error, About::This, self.answer_within);
        let answer = connection.message(message).map_err(late)?;
        // It has been taken, whatever becomes of the goodbye.
        let _as_it_was = connection.set_timeout(Some(GOODBYE_WITHIN));
        let _goodbye = connection.quit();
        if answer.is_positive() {
            tell(Step::Said(&format!("mail taken: {}", words(&answer))));
            return Ok(receivers);
        }
        Err(self.refused(u16::from(answer.code()), &words(&answer), About::This))
    }

    /// All are refused for now, but for those that are refused for good.
    fn nobody_for_now(&self, receivers: &Receivers) -> Undelivered {
        let refused = receivers.not_now.iter();
        let refused: Vec<String> = refused
            .map(|(receiver, words)| format!("{receiver}: {words}"))
            .collect();
        Undelivered {
            why: Why::Unavailable,
            what: format!(
                "{}:{} takes no mail for now to {}",
                self.host,
                self.port,
                refused.join(", ")
            ),
            source: None,
        }
    }

    /// A connection on which mails can be sent: encrypted, and logged in.
    fn connect(&self, say: &mut dyn FnMut(&str)) -> Result<SmtpConnection, Undelivered> {
        let all = |error: smtp::Error| self.explain(&error, About::All, ANSWER_WITHIN);
        // Read anew for each mail: the file may have been mended.
        let tls = self.tls.then(|| self.tls_parameters()).transpose()?;
        let first = tls.as_ref().filter(|_| self.port == TLS_FROM_THE_START);
        let name = ClientId::default();
        let mut connection = SmtpConnection::connect(
            (self.host.as_str(), self.port),
            Some(ANSWER_WITHIN),
            &name,
            first,
            None,
        )
        .map_err(all)?;
        let encrypted = if first.is_some() { " by TLS" } else { "" };
        say(&format!(
            "connected to {}:{}{encrypted}",
            self.host, self.port
        ));
        if let Some(tls) = tls.as_ref().filter(|_| first.is_none()) {
            connection.starttls(tls, &name).map_err(all)?;
            say("encrypted by STARTTLS, certificate verified");
        }
        if let Some((user, password)) = &self.login {
            let password = password.expose_secret().to_owned();
            let credentials = Credentials::new(user.clone(), password);
            let answer = connection
                .auth(DEFAULT_MECHANISMS, &credentials)
                .map_err(all)?;
            say(&format!("logged in as {user}: {}", words(&answer)));
        }
        Ok(connection)
    }

    fn tls_parameters(&self) -> Result<TlsParameters, Undelivered> {
        let unusable = |what: String, source| Undelivered {
            why: Why::Unavailable,
            what,
            source,
        };
        let mut builder = TlsParameters::builder(self.host.clone());
        if let Some(file) = &self.ca_file {
            let bytes = std::fs::read(file).map_err(|error| {
                let what = format!("cannot read email.smtp_ca_file {}", file.display());
                unusable(what, Some(error.into()))
            })?;
            let certificate = Certificate::from_pem(&bytes).map_err(|error| {
                let what = format!("email.smtp_ca_file {} is no PEM file", file.display());
                unusable(what, Some(error.into()))
            })?;
            builder = builder
                .certificate_store(CertificateStore::None)
                .add_root_certificate(certificate);
        }
        builder.build_rustls().map_err(|error| {
            let what = "cannot set TLS up: are CA certificates installed (package \
                        ca-certificates)?";
            unusable(what.to_owned(), Some(error.into()))
        })
    }

    /// What became of the mail, when there was no 250; `within`: how long that was waited for.
    fn explain(&self, error: &smtp::Error, about: About, within: Duration) -> Undelivered {
        let words = error_words(error);
        if let Some(code) = error.status() {
            return self.refused(u16::from(code), &words, about);
        }
        let words = tls::explain(error).unwrap_or(if is_timeout(error) {
            format!("no answer within {} s", within.as_secs())
        } else {
            words
        });
        let hint = if words.contains("STARTTLS is not supported") {
            ": nothing is sent in the clear; is this the right port? (587 for STARTTLS, 465 for TLS)"
        } else {
            ""
        };
        Undelivered {
            why: Why::Unavailable,
            what: format!("{}:{}: {words}{hint}", self.host, self.port),
            source: None,
        }
    }

    /// What a code (RFC 5321 §4.2, enhanced: RFC 3463) means for the mail.
    fn refused(&self, code: u16, words: &str, about: About) -> Undelivered {
        let answer = format!("{}:{} answered: {words}", self.host, self.port);
        let (why, what) = match code {
            // RFC 4954 §6.
            530 | 534 | 535 | 538 => {
                let fix = self.about_credentials();
                (Why::Credentials, format!("{answer}; {fix}"))
            }
            500..=599 if is_quota(words) => (
                Why::Quota,
                format!(
                    "{answer}; as many mails as it allows in a day were sent, also by others with \
                     this account: mails wait and are tried once an hour; if this comes again, set \
                     email.daily_budget lower"
                ),
            ),
            500..=599 if about == About::This => (
                Why::Undeliverable,
                format!(
                    "{answer}; it will never take this mail: check the addresses in email.email_to, \
                     or ask those who run the server"
                ),
            ),
            500..=599 => (
                Why::Credentials,
                format!(
                    "{answer}; it takes no mail from here: check email.email_from, and whether this \
                     address may send by it"
                ),
            ),
            _ => (Why::Unavailable, answer),
        };
        Undelivered {
            why,
            what,
            source: None,
        }
    }

    fn about_credentials(&self) -> String {
        if is_gmail(&self.host) {
            format!(
                "Gmail wants an app password in email.smtp_password, not that of the account: \
                 switch 2-step verification on, then make one at {APP_PASSWORDS}"
            )
        } else if self.login.is_none() {
            "set email.smtp_user and email.smtp_password".to_owned()
        } else {
            "check email.smtp_user and email.smtp_password".to_owned()
        }
    }
}

/// Whether a day's mails are spent (RFC 3463 §3.5): a refusal of all that follows, not of one mail.
fn is_quota(words: &str) -> bool {
    words.contains("5.4.5")
}

/// Whether a host is one of Gmail's.
pub fn is_gmail(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    ["gmail.com", "googlemail.com"]
        .iter()
        .any(|domain| host == *domain || host.ends_with(&format!(".{domain}")))
}

/// The limit of the socket shows as an I/O error, not as the transport's own.
fn is_timeout(error: &smtp::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)) {
            return true;
        }
        next = cause.source();
    }
    error.is_timeout()
}

/// Code and text of an answer, in one line.
fn words(answer: &smtp::response::Response) -> String {
    let text: Vec<&str> = answer.message().collect();
    format!("{} {}", answer.code(), text.join(" "))
}

/// An error and its causes, each once.
fn error_words(error: &smtp::Error) -> String {
    let mut words = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words += ": ";
            words += &cause_words;
        }
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> Server {
        Server {
            host: host.to_owned(),
            port: 587,
            tls: true,
            ca_file: None,
            login: Some(("me".to_owned(), SecretString::from("canary"))),
            answer_within: Duration::from_mins(5),
        }
    }

    #[test]
    fn codes_decide_what_becomes_of_a_mail() {
        let gmail = server("smtp.gmail.com");
        for (code, words, why) in [
            (421, "421 4.7.0 Try again later", Why::Unavailable),
            (451, "451 4.3.0 greylisted", Why::Unavailable),
            (
                534,
                "534 5.7.9 Application-specific password required",
                Why::Credentials,
            ),
            (
                535,
                "535 5.7.8 Username and Password not accepted",
                Why::Credentials,
            ),
            (
                550,
                "550 5.4.5 Daily user sending limit exceeded",
                Why::Quota,
            ),
            (550, "550 5.1.1 no such user", Why::Undeliverable),
            (552, "552 5.3.4 too large", Why::Undeliverable),
        ] {
            let undelivered = gmail.refused(code, words, About::This);
            assert_eq!(undelivered.why, why, "{words}");
            assert!(undelivered.what.contains(words), "{}", undelivered.what);
            let advice = undelivered.what.contains("apppasswords");
            assert_eq!(advice, why == Why::Credentials, "{}", undelivered.what);
            let fix = match why {
                // Nobody has to do anything.
                Why::Unavailable => words,
                Why::Credentials => "switch 2-step verification on, then make one",
                Why::Quota => "set email.daily_budget lower",
                Why::Undeliverable => "check the addresses in email.email_to",
            };
            assert!(undelivered.what.contains(fix), "{}", undelivered.what);
        }
        let blocked = gmail.refused(554, "554 5.7.1 blocked", About::All);
        assert_eq!(
            blocked.why,
            Why::Credentials,
            "no mail is put aside for that"
        );
        let other = server("mail.example.org").refused(535, "535 no", About::All);
        assert!(
            other
                .what
                .ends_with("check email.smtp_user and email.smtp_password")
        );
        assert!(!is_gmail("notgmail.com") && is_gmail("SMTP.Gmail.com"));
    }

    #[test]
    fn the_password_is_not_shown() {
        assert!(!format!("{:?}", server("x")).contains("canary"));
    }
}
