//! The pages behind the links of mails. Plain HTML, no script, nothing loaded from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use vigie_actors::alert::link::Answer;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;\
color:#1b1f24;background:#fff}\
code,td{font-family:ui-monospace,monospace;font-size:.9em}\
a{color:#0b57d0}dd{margin:0 0 .6rem 1rem}td{padding:0 1.5rem 0 0}td+td{text-align:right}\
small{opacity:.7}button{font:inherit;padding:.6rem 1rem}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}a{color:#8ab4f8}}";

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
        let page = answer(Answer::Silence, "<script>a&\"b\"", true);
        assert!(page.contains("&lt;script&gt;a&amp;&quot;b&quot;") && !page.contains("<script"));
    }
}
