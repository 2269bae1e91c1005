//! The page at `/`: what this is and where to go on. Plain HTML, no script, nothing loaded from
//! elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use vigie_actors::alert::link::Answer;
use vigie_actors::store::Ledger;

/// Where to go: the link (none if it holds a placeholder), as printed, and what is there.
const LINKS: [(Option<&str>, &str, &str); 13] = [
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
        Some("/api/v1/incidents?open"),
        "/api/v1/incidents?open",
        "what is wrong now",
    ),
    (
        None,
        "POST /api/v1/incidents/{id}/ack|false-alarm|silence",
        "somebody looks after it; nothing was wrong; no more mails for a while",
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
small{opacity:.7}button{font:inherit;padding:.6rem 1rem}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}a{color:#8ab4f8}}";

/// The page, with the numbers of `ledger` as of `now`.
pub(super) fn render(version: &str, ledger: &Ledger, now: &str) -> String {
    let quarantined: u64 = ledger.quarantined.values().sum();
    let rows = [
        ("received", ledger.received()),
        ("stored", ledger.stored),
        ("duplicate", ledger.duplicate),
        ("quarantined", quarantined),
        ("anomalies", ledger.anomalies),
    ];
    framed(&html! {
        p { "Sensors publish over MQTT; this engine scores each reading as it arrives, stores it, \
             and tells a person when something is wrong." }
        dl {
            @for (link, shown, what) in LINKS {
                dt {
                    @match link {
                        Some(link) => a href=(link) { code { (shown) } },
                        None => code { (shown) },
                    }
                }
                dd { (what) }
            }
        }
        table { @for (name, count) in rows { tr { td { (name) } td { (count) } } } }
        p { small {
            "engine " (version) ", " (now) ". Times in the API are milliseconds since 1970 UTC; "
            code { "from" } " is included, " code { "to" } " is not."
        } }
    })
}

/// The page behind a link of a mail: `asks` before anything is done, or says that it is.
pub(super) fn answer(answer: Answer, what: &str, asks: bool) -> String {
    let (question, button, done) = match answer {
        Answer::Acknowledge => (
            "You look after this, and want no more reminders?",
            "I look after it",
            "Noted: there are no more reminders.",
        ),
        Answer::FalseAlarm => (
            "Nothing was wrong, and the engine should be less strict here?",
            "It was a false alarm",
            "Noted: the incident is over, and the line of its rule is higher for this sensor.",
        ),
        Answer::Silence => (
            "You want no more mails about this sensor or group for a day?",
            "Silence for a day",
            "Noted: silence for a day. What happens is stored all the same.",
        ),
    };
    framed(&html! {
        p { strong { (what) } }
        @if asks {
            p { (question) }
            // To where it came from, the signature with it.
            form method="post" { button type="submit" { (button) } }
        } @else {
            p { (done) }
        }
    })
}

/// The page behind a link that is not one of ours, or no longer.
pub(super) fn refused() -> String {
    framed(&html! {
        p { "This link does not work, or no longer: links work for a week. Take the one of a newer \
             mail, or answer on the engine's machine: " code { "engine incidents" } }
    })
}

fn framed(body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Vigie" }
                style { (PreEscaped(STYLE)) }
            }
            body { h1 { "Vigie" } (body) }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let page = render("<script>alert('1')</script>", &Ledger::default(), "a&\"b\"");
        assert!(page.contains("&lt;script&gt;alert('1')&lt;/script&gt;"));
        assert!(page.contains("a&amp;&quot;b&quot;") && !page.contains("<script"));
        assert!(!answer(Answer::Silence, "<b>", true).contains("<b>"));
    }
}
