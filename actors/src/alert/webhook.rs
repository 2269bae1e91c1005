//! Notices to a program of somebody's own: one POST each, signed, again until it answers 2xx.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::endpoint::Endpoint;
use super::link::hmac_hex;
use super::report::Report;
use super::text::Voice;
use super::{Channel, Undelivered, Why};
use crate::clock::Clock;
use crate::score::incident::Notice;

/// Posts notices.
#[derive(Debug)]
pub struct Webhook {
    name: String,
    endpoint: Endpoint,
    secret: Option<SecretString>,
    voice: Voice,
    clock: Arc<dyn Clock>,
}

/// The body.
#[derive(Debug, Serialize)]
struct Body<'a> {
    /// The same whenever it comes again: who has seen it, has seen it.
    id: String,
    /// What happened.
    event: &'static str,
    /// Milliseconds since 1970 UTC.
    at: i64,
    /// For people.
    text: String,
    incident: Report<'a>,
}

impl Webhook {
    /// With a `secret`, each body is signed in the header `X-Vigie-Signature`: `t=` seconds since
    /// 1970, `,v1=` the hexadecimal HMAC-SHA256 (RFC 2104) of `<t>.<body>`. Whoever checks both
    /// knows who sent it, and when.
    pub fn new(
        name: String,
        endpoint: Endpoint,
        secret: Option<SecretString>,
        voice: Voice,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            name,
            endpoint,
            secret,
            voice,
            clock,
        }
    }

    fn post(&self, notice: &Notice) -> Result<(), Undelivered> {
        let body = Body {
            id: format!("{}.{}", notice.incident.id(), notice.number),
            event: notice.kind.name(),
            at: notice.at_ms,
            text: self.voice.line(notice),
            incident: Report::of(&notice.incident, &self.voice),
        };
        let json = serde_json::to_vec(&body).map_err(|error| Undelivered {
            why: Why::Undeliverable,
            what: "cannot write a notice as JSON".to_owned(),
            source: Some(error.into()),
        })?;
        let mut headers = vec![("X-Vigie-Delivery", body.id.as_str())];
        let signature = self.secret.as_ref().map(|secret| {
            let at_s = self.clock.now_ms().div_euclid(1000);
            let signed = [format!("{at_s}.").as_bytes(), &json].concat();
            let digest = hmac_hex(secret.expose_secret().as_bytes(), &signed);
            format!("t={at_s},v1={digest}")
        });
        if let Some(signature) = &signature {
            headers.push(("X-Vigie-Signature", signature));
        }
        self.endpoint.post(&json, &headers)
    }
}

impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    fn deliver(&mut self, notices: &[Notice], _used: u32) -> Result<(), Undelivered> {
        notices.iter().try_for_each(|notice| self.post(notice))
    }
}
