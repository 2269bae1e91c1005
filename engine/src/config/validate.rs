//! Whether the values work: what each section says of itself, and what only the whole can tell.

use secrecy::{ExposeSecret, SecretString};
use vigie_actors::config::{Invalid, in_range};
use vigie_actors::quantity::Catalogue;

use super::{Config, Http, Metrics, channels};
use vigie_actors::secret::REDACTED;
use vigie_actors::tls::{ServerCertificates, ServerFiles};

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Config {
    /// Everything that cannot work, by dotted key.
    pub(crate) fn validate(&self) -> Vec<Invalid> {
        let sections = [
            ("listener", self.listener.validate()),
            ("payload", self.payload.validate()),
            ("stats", self.stats.validate()),
            ("score", self.score.validate()),
            ("incidents", self.incidents.validate()),
            ("store", self.store.validate()),
            ("http", self.http.validate()),
            ("metrics", self.metrics.validate()),
            ("mongodb", self.mongodb.validate()),
            ("mqtt", self.mqtt.validate()),
            ("email", self.email.validate()),
        ];
        sections
            .into_iter()
            .filter_map(|(section, checked)| checked.err().map(|invalid| invalid.within(section)))
            .chain(self.quantities_alone())
            .chain(self.groups_and_windows())
            .chain(self.across())
            .collect()
    }

    fn quantities_alone(&self) -> Vec<Invalid> {
        let each: Vec<Invalid> = self
            .quantities
            .iter()
            .filter_map(|(name, quantity)| quantity.validate(name).err())
            .collect();
        let wrong = match each.as_slice() {
            [] => Catalogue::build(&self.quantities, &[])
                .err()
                .into_iter()
                .collect(),
            _ => each,
        };
        wrong
            .into_iter()
            .map(|invalid| invalid.within("quantities"))
            .collect()
    }

    fn groups_and_windows(&self) -> Vec<Invalid> {
        let groups = self.groups.iter();
        let groups = groups.filter_map(|(name, group)| {
            let invalid = group.validate(name).err()?;
            Some(invalid.within("groups"))
        });
        let windows = (0..).zip(&self.maintenance);
        let windows = windows.filter_map(|(at, window): (usize, _)| {
            let invalid = window.validate(&self.groups).err()?;
            Some(invalid.within(&format!("maintenance.{at}")))
        });
        let whose = self.email.whose().validate(&self.groups).err();
        let whose = whose.map(|invalid| invalid.within("email"));
        let others = channels::validate(&self.webhook, &self.alertmanager, &self.groups);
        groups.chain(windows).chain(whose).chain(others).collect()
    }

    fn across(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if self.data_dir.as_os_str().is_empty() {
            let fix = "name a directory, for instance \"vigie-data\"";
            wrong.push(Invalid::new("data_dir", "\"\"", "names no directory", fix));
        }
        let (announced, decoded) = (self.listener.max_payload_bytes, self.payload.max_bytes);
        if announced != decoded {
            wrong.push(Invalid::new(
                "listener.max_payload_bytes",
                announced,
                format!("devices are promised this, but payload.max_bytes = {decoded} is decoded"),
                "give both the same value",
            ));
        }
        if self.http.addr == self.listener.addr && self.http.addr.port() != 0 {
            wrong.push(Invalid::new(
                "http.addr",
                self.http.addr,
                "listener.addr is the same",
                "give each a port of its own",
            ));
        }
        wrong
    }
}

impl Http {
    fn validate(&self) -> Result<(), Invalid> {
        if let Some(url) = &self.public_url {
            let rest = url
                .strip_prefix("https://")
                .or_else(|| url.strip_prefix("http://"));
            let plain = |c: char| c.is_ascii_graphic() && !"\"'<>?#@\\".contains(c);
            if !rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain)) {
                let fix = "write it as in \"https://vigie.example.org\"";
                let shown = format_args!("{url:?}");
                return Err(Invalid::new(
                    "public_url",
                    shown,
                    "not an address of a page",
                    fix,
                ));
            }
        }
        self.certificates()?;
        match &self.token {
            None if !self.addr.ip().is_loopback() => Err(Invalid::new(
                "addr",
                self.addr,
                "everybody who reaches this address could read everything, because there is no \
                 token",
                "set http.token or http.token_file, or serve on 127.0.0.1",
            )),
            Some(token) if !is_token(token) => Err(Invalid::new(
                "token",
                REDACTED,
                format!("not {SHORTEST_TOKEN} or more printable ASCII characters without spaces"),
                "make one with: openssl rand -hex 32",
            )),
            _ => Ok(()),
        }
    }
}

impl Http {
    /// What TLS is spoken with; `None`: no TLS.
    ///
    /// # Errors
    /// [`Invalid`] names the key, without its section.
    pub(crate) fn certificates(&self) -> Result<Option<ServerCertificates>, Invalid> {
        let alone = |missing| {
            let problem = "HTTPS needs a certificate and its key";
            let fix = "set both http.cert_file and http.key_file";
            Invalid::new(missing, "(nothing)", problem, fix)
        };
        let files = ServerFiles::of(self.cert_file.as_ref(), self.key_file.as_ref(), None);
        let files = files.map_err(alone)?;
        files.map(ServerFiles::read).transpose()
    }

    /// Whether people come by HTTPS, here or at a proxy in front.
    pub(crate) fn is_public_https(&self) -> bool {
        let url = self.public_url.as_ref();
        url.is_some_and(|url| url.starts_with("https://"))
    }

    /// The host under which people find it, if that is known.
    pub(crate) fn public_host(&self) -> Option<&str> {
        let url = self.public_url.as_ref()?;
        let rest = url.split_once("://")?.1;
        rest.split('/').next().map(without_port)
    }
}

/// A host without the port that may stand behind it; an IPv6 address stands in brackets.
pub(crate) fn without_port(host: &str) -> &str {
    let end = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    &host[..end.unwrap_or(host.len())]
}

fn is_token(token: &SecretString) -> bool {
    let token = token.expose_secret();
    token.len() >= SHORTEST_TOKEN && token.bytes().all(|b| b.is_ascii_graphic())
}

impl Metrics {
    fn validate(&self) -> Result<(), Invalid> {
        in_range("max_sensor_series", self.max_sensor_series, 0, 100_000)?;
        in_range("stale_intervals", self.stale_intervals, 1, 100_000)
    }
}

/// Errs if there is a secret, but an empty one.
///
/// # Errors
/// [`Invalid`].
pub(super) fn filled(key: &str, secret: Option<&SecretString>) -> Result<(), Invalid> {
    if secret.is_some_and(|secret| secret.expose_secret().is_empty()) {
        return Err(Invalid::new(
            key,
            REDACTED,
            "empty",
            "fill it in, or leave the key out",
        ));
    }
    Ok(())
}
