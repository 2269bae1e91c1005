//! Section `[email]`: where mails come from and go to, and by which server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use vigie_actors::alert::budget::Budget;
use vigie_actors::alert::mail::{self, BadAddress, Letters, smtp};
use vigie_actors::alert::route::{Reader, Route};
use vigie_actors::alert::text::{Language, Voice};
use vigie_actors::config::{Invalid, Span, in_range};
use vigie_actors::group::Selection;
use vigie_actors::ingest::broker::check_host;
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::rules::Severity;
use vigie_actors::secret::redacted;

use super::validate::filled;

/// Stands for an address as long as there is none.
const NOBODY: &str = "you@localhost";

/// Section `[email]`. Without `smtp_host`, mails are written as files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    clippy::struct_field_names,
    reason = "the key has been email.email_to all along"
)]
pub(crate) struct Email {
    /// Host name of the mail server, without scheme and port.
    pub(crate) smtp_host: Option<String>,
    /// TCP port, 1 to 65,535. At 465 TLS comes first, at any other STARTTLS is required.
    pub(crate) smtp_port: u16,
    /// False: no TLS, which only a mail server on this machine may do without.
    pub(crate) smtp_tls: bool,
    /// PEM file with the CA of the mail server; without it, those that this system trusts.
    pub(crate) smtp_ca_file: Option<PathBuf>,
    /// User name at the mail server.
    pub(crate) smtp_user: Option<String>,
    /// Password at the mail server.
    #[serde(serialize_with = "redacted")]
    pub(crate) smtp_password: Option<SecretString>,
    /// File that holds the password.
    pub(crate) smtp_password_file: Option<PathBuf>,
    /// Longest wait for the mail server's answer to a whole mail, 10 s to 10 minutes. After that the
    /// mail is sent again.
    pub(crate) answer_within: Span,
    /// The address that mails come from; without it, `smtp_user`.
    pub(crate) email_from: Option<String>,
    /// The address that notices go to; or several, with commas between them.
    pub(crate) email_to: String,
    /// Language of the mails.
    pub(crate) language: Language,
    /// Time zone of the times in mails, as in the IANA database; without it, this machine's.
    pub(crate) time_zone: Option<String>,
    /// Recipients within 24 hours, 1 to 100,000.
    pub(crate) daily_budget: u32,
    /// The last of them, which only critical incidents get; what is left must be enough for a mail.
    pub(crate) critical_reserve: u32,
    /// Incidents that become so bad at least.
    pub(crate) severity: Severity,
    /// Incidents of these sensors, with `*` and `?`; …
    pub(crate) sensors: Vec<String>,
    /// … or of these groups. With neither: all.
    pub(crate) groups: Vec<String>,
}

impl Default for Email {
    fn default() -> Self {
        Self {
            smtp_host: None,
            smtp_port: 587,
            smtp_tls: true,
            smtp_ca_file: None,
            smtp_user: None,
            smtp_password: None,
            smtp_password_file: None,
            answer_within: Span::secs(5 * 60),
            email_from: None,
            email_to: NOBODY.into(),
            language: Language::English,
            time_zone: None,
            daily_budget: 400,
            critical_reserve: 50,
            severity: Severity::Warn,
            sensors: Vec::new(),
            groups: Vec::new(),
        }
    }
}

impl Email {
    /// The mail server, if there is one.
    pub(crate) fn server(&self) -> Option<smtp::Server> {
        let host = self.smtp_host.clone()?;
        let login = self.smtp_user.clone().zip(self.smtp_password.clone());
        // Google shows app passwords in groups of four, and wants them without the spaces.
        let login = login.map(|(user, password)| {
            if smtp::is_gmail(&host) {
                (user, without_spaces(&password).into())
            } else {
                (user, password)
            }
        });
        Some(smtp::Server {
            host,
            port: self.smtp_port,
            tls: self.smtp_tls,
            ca_file: self.smtp_ca_file.clone(),
            login,
            answer_within: self.answer_within.duration(),
        })
    }

    /// Where mails come from and go to.
    ///
    /// # Errors
    /// [`BadAddress`], see [`Email::validate`].
    pub(crate) fn letters(&self, catalogue: Arc<Catalogue>) -> Result<Letters, BadAddress> {
        let from = match self.from() {
            Some(address) if address.contains('<') => address.to_owned(),
            Some(address) => format!("Vigie <{address}>"),
            None => "Vigie <vigie@localhost>".to_owned(),
        };
        let voice = Voice {
            language: self.language,
            zone: self.zone().unwrap_or(TimeZone::UTC),
            catalogue,
        };
        Letters::new(&from, &self.email_to, voice)
    }

    /// `None`: there is no such zone.
    fn zone(&self) -> Option<TimeZone> {
        match &self.time_zone {
            None => Some(TimeZone::system()),
            Some(name) => TimeZone::get(name).ok(),
        }
    }

    /// Whose incidents are mailed.
    pub(crate) fn whose(&self) -> Selection {
        Selection::new(&self.sensors, &self.groups)
    }

    /// How many mails may go out; `None`: they are files, and there may be any number.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.smtp_host.as_ref()?;
        Some(Budget {
            daily: self.daily_budget,
            reserve: self.critical_reserve,
            recipients: self.recipients(),
        })
    }

    /// How many people get each mail.
    fn recipients(&self) -> u32 {
        let letters = self.letters(Arc::default());
        letters.map_or(1, |letters| letters.recipients())
    }

    /// Which notices are mailed.
    pub(crate) fn route(&self) -> Route {
        Route {
            channel: mail::NAME.to_owned(),
            least: self.severity,
            whose: self.whose(),
            reader: Reader::People,
        }
    }

    /// The configured address, or the user name if it is one.
    fn from(&self) -> Option<&str> {
        let user = self.smtp_user.as_deref().filter(|user| user.contains('@'));
        self.email_from.as_deref().or(user)
    }

    /// Whether mails can be sent with it. Nothing is connected to.
    ///
    /// # Errors
    /// [`Invalid`] with the fix.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        in_range("smtp_port", self.smtp_port, 1, u16::MAX)?;
        in_range("daily_budget", self.daily_budget, 1, 100_000)?;
        let most = self.daily_budget - 1;
        in_range("critical_reserve", self.critical_reserve, 0, most)?;
        let (least, most) = (Span::secs(10), Span::secs(10 * 60));
        in_range("answer_within", self.answer_within, least, most)?;
        if self.zone().is_none() {
            let name = self.time_zone.as_deref().unwrap_or_default();
            let fix = "write one of the IANA database, such as \"Europe/Paris\"";
            return Err(Invalid::new(
                "time_zone",
                name,
                "there is no such time zone",
                fix,
            ));
        }
        filled("smtp_password", self.smtp_password.as_ref())?;
        self.letters(Arc::default()).map_err(|bad| {
            let key = match &bad.address {
                address if *address == self.email_to => "email_to",
                _ if self.email_from.is_some() => "email_from",
                _ => "smtp_user",
            };
            let fix = "write one, for instance \"you@example.org\"";
            let shown = format_args!("{:?}", bad.address);
            Invalid::new(key, shown, "not a mail address", fix)
        })?;
        match self.server() {
            Some(server) => self.validate_server(&server),
            None => Ok(()),
        }
    }

    /// Each mail takes as much of the budget as it has recipients.
    fn validate_budget(&self) -> Result<(), Invalid> {
        let recipients = self.recipients();
        // What is critical gets the reserve, too.
        let kept = match self.severity {
            Severity::Warn => self.critical_reserve,
            Severity::Critical => 0,
        };
        let least = recipients.saturating_add(kept);
        if self.daily_budget >= least {
            return Ok(());
        }
        let problem = match kept {
            0 => format!("not enough for one mail to the {recipients} addresses in email_to"),
            kept => format!(
                "not enough for one mail about a warning to the {recipients} addresses in email_to, \
                 because critical_reserve = {kept} of it are kept"
            ),
        };
        Err(Invalid::new(
            "daily_budget",
            self.daily_budget,
            problem,
            format!("set it to {least} at least, or name fewer addresses"),
        ))
    }

    fn validate_server(&self, server: &smtp::Server) -> Result<(), Invalid> {
        self.validate_budget()?;
        let nothing = |key, problem: &str, fix: &str| Invalid::new(key, "(nothing)", problem, fix);
        check_host("smtp_host", &server.host)?;
        if self.email_to == NOBODY {
            let fix = "write your address";
            return Err(nothing("email_to", "mails would go to nobody", fix));
        }
        if self.from().is_none() {
            let fix = "write the address that this mail server lets you send from";
            return Err(nothing("email_from", "mails have no sender", fix));
        }
        match (&self.smtp_user, &self.smtp_password) {
            (Some(_), None) => {
                let problem = "smtp_user is set without it";
                return Err(nothing("smtp_password", problem, "set both"));
            }
            (None, Some(_)) => {
                let problem = "smtp_password is set without it";
                return Err(nothing("smtp_user", problem, "set both"));
            }
            _ => {}
        }
        let here = ["localhost", "127.0.0.1", "::1"].contains(&server.host.as_str());
        if !self.smtp_tls && !here {
            return Err(Invalid::new(
                "smtp_tls",
                false,
                "mails and password would cross the network readable",
                "leave it out: only a mail server on this machine may do without TLS",
            ));
        }
        server.check().map_err(|problem| {
            let file = self.smtp_ca_file.as_deref().unwrap_or(Path::new(""));
            let fix = "name a PEM file with the CA of the mail server";
            Invalid::new("smtp_ca_file", file.display(), problem, fix)
        })
    }

    /// What is no error, but worth a warning.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let Some(server) = self.server() else {
            if self.smtp_user.is_some() || self.smtp_password.is_some() {
                let remark = "[email] smtp_host is not set: mails are written as .eml files";
                remarks.push(remark.to_owned());
            }
            return remarks;
        };
        let usual = |password: &SecretString| {
            let password = without_spaces(password);
            password.len() == 16 && password.bytes().all(|b| b.is_ascii_alphabetic())
        };
        if smtp::is_gmail(&server.host) && !self.smtp_password.as_ref().is_some_and(usual) {
            remarks.push(format!(
                "[email] smtp_password is no app password of Google (16 letters), and Gmail takes \
                 no other: make one at {}",
                smtp::APP_PASSWORDS
            ));
        }
        remarks
    }
}

fn without_spaces(password: &SecretString) -> String {
    password.expose_secret().replace(' ', "")
}
