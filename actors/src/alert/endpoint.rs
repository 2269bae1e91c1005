//! Posting JSON to somebody's HTTP server. The only file in this crate that knows ureq.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{Undelivered, Why};
use crate::config::Invalid;
use crate::tls;

/// Longest wait for everything that one request takes.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, to be quoted.
const QUOTED: u64 = 512;

/// Where JSON is posted to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    url: String,
    /// The URL without what may be secret in it.
    shown: String,
    ca_file: Option<PathBuf>,
    bearer: Option<SecretString>,
}

impl Endpoint {
    /// `url` begins with `https://`; `http://` will do for a server on this machine. With a
    /// `ca_file` (PEM), the server's certificate must be of that CA. With a `bearer`, each request
    /// carries it as a token (RFC 6750).
    ///
    /// # Errors
    /// [`Invalid`] that names `url`.
    pub fn new(
        url: &str,
        ca_file: Option<PathBuf>,
        bearer: Option<SecretString>,
    ) -> Result<Self, Invalid> {
        let invalid = |problem: &str, fix: &str| Err(Invalid::new("url", "(hidden)", problem, fix));
        let fix = "write it as in \"https://example.org/hook\"";
        let Ok(uri) = url.parse::<ureq::http::Uri>() else {
            return invalid("not an address", fix);
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return invalid("names no host", fix);
        };
        let here = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if here => {}
            Some("http") => {
                let fix = "use https:// (http:// is for servers on this machine)";
                return invalid("what it says would cross the network readable", fix);
            }
            _ => return invalid("neither https nor http", fix),
        }
        let port = uri.port_u16().map(|port| format!(":{port}"));
        let scheme = uri.scheme_str().unwrap_or_default();
        let port = port.unwrap_or_default();
        Ok(Self {
            url: url.to_owned(),
            // Paths may be secrets, too.
            shown: format!("{scheme}://{host}{port}"),
            ca_file,
            bearer,
        })
    }

    /// Posts `body`, with headers beside those of every request.
    ///
    /// # Errors
    /// Why it did not arrive, or was not taken.
    pub fn post(&self, body: &[u8], headers: &[(&str, &str)]) -> Result<(), Undelivered> {
        let mut request = self
            .agent()?
            .post(&self.url)
            .header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(bearer) = &self.bearer {
            let token = format!("Bearer {}", bearer.expose_secret());
            request = request.header("Authorization", token);
        }
        let mut answer = request
            .send(body)
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status().as_u16();
        let why = match status {
            200..=299 => return Ok(()),
            408 | 425 | 429 | 500..=599 => Why::Unavailable,
            // Somebody has to mend something; until then nothing is thrown away.
            _ => Why::Credentials,
        };
        let said = answer
            .body_mut()
            .with_config()
            .limit(QUOTED)
            .read_to_string();
        let said = first_line(&said.unwrap_or_default());
        let fix = match status {
            401 | 403 | 407 => "; check its token or secret",
            _ if why == Why::Credentials => "; check the url: is this what takes such messages?",
            _ => "",
        };
        let what = format!("{} answered {status}: {said}{fix}", self.shown);
        Err(failed(why, what))
    }

    /// Made anew for each request: the files may have been mended.
    fn agent(&self) -> Result<Agent, Undelivered> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(WITHIN))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("vigie/", env!("CARGO_PKG_VERSION")));
        if self.url.starts_with("https") {
            let roots = tls::root_certificates(self.ca_file.as_deref())
                .map_err(|unusable| failed(Why::Unavailable, unusable.to_string()))?;
            let roots: Vec<Certificate<'_>> = roots
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect();
            let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots));
            config = config.tls_config(tls.build());
        }
        Ok(config.build().into())
    }

    fn unreachable(&self, error: &ureq::Error) -> Undelivered {
        let words = match error {
            ureq::Error::Timeout(_) => format!("no answer within {} s", WITHIN.as_secs()),
            // It hides its cause.
            ureq::Error::Io(error) => tls::explain(error).unwrap_or_else(|| causes(error)),
            error => tls::explain(error).unwrap_or_else(|| causes(error)),
        };
        failed(Why::Unavailable, format!("{}: {words}", self.shown))
    }
}

fn failed(why: Why, what: String) -> Undelivered {
    Undelivered {
        why,
        what,
        source: None,
    }
}

/// An error and its causes, each once.
fn causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = cause.source();
    }
    words
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request so, and gives what it was.
    fn server(answer: &'static str) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let mut length = 0;
            while !asked[..length].ends_with(b"{}") {
                length += stream.read(&mut asked[length..]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (port, thread)
    }

    #[test]
    fn only_2xx_ends_it_and_other_answers_decide_when_it_comes_again() {
        for (answer, why, part) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", None, ""),
            (
                "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
                None,
                "",
            ),
            (
                "HTTP/1.1 401 No\r\ncontent-length: 7\r\n\r\nwho\nyou",
                Some(Why::Credentials),
                "answered 401: who; check its token",
            ),
            (
                "HTTP/1.1 400 No\r\ncontent-length: 13\r\n\r\nnot like this",
                Some(Why::Credentials),
                "answered 400: not like this; check the url",
            ),
            (
                "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
                Some(Why::Credentials),
                "check the url",
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: http://localhost:1/\r\ncontent-length: 0\r\n\r\n",
                Some(Why::Credentials),
                "answered 302: ; check the url",
            ),
            (
                "HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n",
                Some(Why::Unavailable),
                "answered 429",
            ),
            (
                "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
                Some(Why::Unavailable),
                "answered 503",
            ),
            ("", Some(Why::Unavailable), "http://127.0.0.1:"),
        ] {
            let (port, thread) = server(answer);
            let url = format!("http://127.0.0.1:{port}/hook?key=canary");
            let endpoint = Endpoint::new(&url, None, Some("secret".into())).unwrap();
            let posted = endpoint.post(b"{}", &[("X-Vigie", "1")]);
            let asked = thread.join().unwrap();
            assert!(
                asked.starts_with("POST /hook?key=canary HTTP/1.1"),
                "{asked}"
            );
            assert!(asked.contains("authorization: Bearer secret"), "{asked}");
            assert!(asked.contains("x-vigie: 1"), "{asked}");
            let failed = posted.err();
            assert_eq!(failed.as_ref().map(|failed| failed.why), why, "{answer}");
            let again = failed.as_ref().map(|failed| failed.why.pause(1));
            assert_ne!(again, Some(None), "{answer} is never tried again");
            let words = failed.map(|failed| failed.what).unwrap_or_default();
            assert!(words.contains(part) && !words.contains("canary"), "{words}");
        }
    }

    #[test]
    fn nothing_crosses_the_network_readable() {
        for url in [
            "http://example.org/hook",
            "ftp://localhost/",
            "example.org",
            "https://",
            "",
        ] {
            assert_eq!(
                Endpoint::new(url, None, None).unwrap_err().key,
                "url",
                "{url}"
            );
        }
        for url in [
            "https://example.org/hook",
            "http://localhost:9093",
            "http://[::1]:1/",
        ] {
            assert!(Endpoint::new(url, None, None).is_ok(), "{url}");
        }
    }
}
