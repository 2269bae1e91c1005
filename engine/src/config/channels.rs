//! Sections `[webhook.NAME]` and `[alertmanager.NAME]`: ways of notices to other programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use vigie_actors::alert::endpoint::Endpoint;
use vigie_actors::alert::route::{Reader, Route};
use vigie_actors::config::Invalid;
use vigie_actors::group::{self, Selection};
use vigie_actors::score::rules::Severity;
use vigie_actors::secret::redacted;

use super::validate::filled;

/// Section `[webhook.NAME]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Webhook {
    /// Where notices are posted to; may hold secrets itself.
    #[serde(serialize_with = "hidden")]
    pub(crate) url: SecretString,
    /// Signs what is posted.
    #[serde(default, serialize_with = "redacted")]
    pub(crate) secret: Option<SecretString>,
    /// File that holds the secret.
    #[serde(default)]
    pub(crate) secret_file: Option<PathBuf>,
    /// PEM file with the CA of the server; without it, those that this system trusts.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Incidents that become so bad at least.
    #[serde(default = "warn")]
    pub(crate) severity: Severity,
    /// Incidents of these sensors, with `*` and `?`; …
    #[serde(default)]
    pub(crate) sensors: Vec<String>,
    /// … or of these groups. With neither: all.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

/// Section `[alertmanager.NAME]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alertmanager {
    /// Where it is, without `/api/v2`.
    pub(crate) url: String,
    /// Bearer token, if a proxy before it asks for one.
    #[serde(default, serialize_with = "redacted")]
    pub(crate) token: Option<SecretString>,
    /// File that holds the token.
    #[serde(default)]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the CA of the server; without it, those that this system trusts.
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    /// Incidents that become so bad at least.
    #[serde(default = "warn")]
    pub(crate) severity: Severity,
    /// Incidents of these sensors, with `*` and `?`; …
    #[serde(default)]
    pub(crate) sensors: Vec<String>,
    /// … or of these groups. With neither: all.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

fn warn() -> Severity {
    Severity::Warn
}

fn hidden<S: serde::Serializer>(_: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(vigie_actors::secret::REDACTED)
}

impl Webhook {
    /// Where it posts to.
    ///
    /// # Errors
    /// [`Invalid`] that names the key.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Invalid> {
        use secrecy::ExposeSecret as _;
        Endpoint::new(self.url.expose_secret(), self.ca_file.clone(), None)
    }

    /// What goes there, under the channel's name.
    pub(crate) fn route(&self, name: &str) -> Route {
        Route {
            channel: format!("webhook-{name}"),
            least: self.severity,
            whose: Selection::new(&self.sensors, &self.groups),
            reader: Reader::Program,
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        filled("secret", self.secret.as_ref())?;
        self.endpoint().map(drop)
    }
}

impl Alertmanager {
    /// Where it posts to.
    ///
    /// # Errors
    /// [`Invalid`] that names the key.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Invalid> {
        let url = format!("{}/api/v2/alerts", self.url.trim_end_matches('/'));
        Endpoint::new(&url, self.ca_file.clone(), self.token.clone())
    }

    /// What goes there, under the channel's name.
    pub(crate) fn route(&self, name: &str) -> Route {
        Route {
            channel: format!("alertmanager-{name}"),
            least: self.severity,
            whose: Selection::new(&self.sensors, &self.groups),
            reader: Reader::Program,
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        filled("token", self.token.as_ref())?;
        self.endpoint().map(drop)
    }
}

/// What is wrong with a section.
type Wrong<'a> = (&'a str, &'a str, Result<(), Invalid>, Selection);

/// Everything that cannot work in these sections.
pub(super) fn validate(
    webhooks: &BTreeMap<String, Webhook>,
    alertmanagers: &BTreeMap<String, Alertmanager>,
    groups: &BTreeMap<String, group::Config>,
) -> Vec<Invalid> {
    let webhooks = webhooks.iter().map(|(name, hook)| -> Wrong<'_> {
        ("webhook", name, hook.validate(), hook.route(name).whose)
    });
    let managers = alertmanagers.iter().map(|(name, manager)| -> Wrong<'_> {
        let whose = manager.route(name).whose;
        ("alertmanager", name, manager.validate(), whose)
    });
    let mut wrong = Vec::new();
    for (kind, name, checked, whose) in webhooks.chain(managers) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            let problem = "not a name that can stand in metrics";
            let fix = "use 1 to 32 letters, digits, '_' or '-'";
            wrong.push(Invalid::new(kind, format_args!("{name:?}"), problem, fix));
        }
        let selected = whose.validate(groups);
        let found = [checked.err(), selected.err()].into_iter().flatten();
        wrong.extend(found.map(|invalid| invalid.within(&format!("{kind}.{name}"))));
    }
    wrong
}
