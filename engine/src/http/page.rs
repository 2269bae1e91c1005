//! The page at `/`: what this is and where to go on. Plain HTML, no script, nothing loaded from
//! elsewhere.

use std::fmt::Write;

use vigie_actors::store::Ledger;

/// Where to go: the link (none if it holds a placeholder), as printed, and what is there.
const LINKS: [(Option<&str>, &str, &str); 11] = [
    (
        Some("/api/v1/sensors"),
        "/api/v1/sensors",
        "every sensor with its newest values",
    ),
    (
        None,
        "/api/v1/sensors/{id}/readings?from&to&limit&cursor",
        "one sensor's readings with z-scores and score, oldest first",
    ),
    (
        None,
        "/api/v1/sensors/{id}/hours?from&to&limit&cursor",
        "its hourly roll-ups, oldest first",
    ),
    (
        Some("/api/v1/anomalies"),
        "/api/v1/anomalies?from&to&limit&cursor",
        "what was out of line, and why",
    ),
    (
        Some("/api/v1/incidents"),
        "/api/v1/incidents?from&to&limit&cursor",
        "what people were told about",
    ),
    (
        Some("/api/v1/ledger"),
        "/api/v1/ledger",
        "what became of every message that came in",
    ),
    (
        Some("/api/v1/ledger/sensors"),
        "/api/v1/ledger/sensors?limit&cursor",
        "the same of each sensor",
    ),
    (
        Some("/api/v1/mongodb"),
        "/api/v1/mongodb",
        "how far the copy in MongoDB is",
    ),
    (Some("/metrics"), "/metrics", "for Prometheus"),
    (Some("/livez"), "/livez", "is the process alive?"),
    (
        Some("/readyz?verbose"),
        "/readyz?verbose",
        "can it do its work? Part by part",
    ),
];

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;\
color:#1b1f24;background:#fff}\
code,td{font-family:ui-monospace,monospace;font-size:.9em}\
a{color:#0b57d0}dd{margin:0 0 .6rem 1rem}td{padding:0 1.5rem 0 0}td+td{text-align:right}\
small{opacity:.7}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}a{color:#8ab4f8}}";

/// Text that is nothing but text wherever it stands in HTML.
fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut safe, c| {
            match c {
                '&' => safe.push_str("&amp;"),
                '<' => safe.push_str("&lt;"),
                '>' => safe.push_str("&gt;"),
                '"' => safe.push_str("&quot;"),
                '\'' => safe.push_str("&#39;"),
                c => safe.push(c),
            }
            safe
        })
}

/// The page, with the numbers of `ledger` as of `now`.
pub(super) fn render(version: &str, ledger: &Ledger, now: &str) -> String {
    let mut links = String::new();
    for (link, shown, what) in LINKS {
        let shown = format!("<code>{}</code>", escape(shown));
        let shown = match link {
            Some(link) => format!("<a href=\"{}\">{shown}</a>", escape(link)),
            None => shown,
        };
        // Writing to a String cannot fail.
        let _infallible = write!(links, "<dt>{shown}</dt><dd>{}</dd>", escape(what));
    }
    let quarantined: u64 = ledger.quarantined.values().sum();
    let rows: String = [
        ("received", ledger.received()),
        ("stored", ledger.stored),
        ("duplicate", ledger.duplicate),
        ("quarantined", quarantined),
        ("anomalies", ledger.anomalies),
    ]
    .map(|(name, count)| format!("<tr><td>{name}</td><td>{count}</td></tr>"))
    .concat();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Vigie</title>\
         <style>{STYLE}</style></head><body><h1>Vigie</h1>\
         <p>Sensors publish over MQTT; this engine scores each reading as it arrives, stores it, \
         and tells a person when something is wrong.</p>\
         <dl>{links}</dl><table>{rows}</table>\
         <p><small>engine {}, {}. Times in the API are milliseconds since 1970 UTC; \
         <code>from</code> is included, <code>to</code> is not.</small></p></body></html>\n",
        escape(version),
        escape(now),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let page = render("<script>alert('1')</script>", &Ledger::default(), "a&\"b\"");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"));
        assert!(page.contains("a&amp;&quot;b&quot;") && !page.contains("<script"));
    }
}
