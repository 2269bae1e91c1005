//! A mail before it is one: what it says, as text and as HTML that mail programs show as it is
//! meant, on a telephone as well. Nothing in it is trusted: names and texts stay text. Pure.

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::link::{Answer, Signer};
use super::text::{Label, Phrase, Voice};
use crate::score::incident::{Incident, Notice};
use crate::stats::device::Device;

/// How long the links of a mail work.
const LINKS_MS: i64 = 7 * 24 * 3_600_000;
/// What the picture is called inside of the mail.
pub const PICTURE: &str = "chart";

/// How a mail can be answered: with links to the engine, if it can be reached.
#[derive(Debug, Clone)]
pub struct Links {
    /// Where the engine is found, without a slash at the end.
    pub base: String,
    /// Signs them.
    pub signer: Signer,
}

/// A mail before it is one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Letter {
    /// RFC 5646.
    language: &'static str,
    /// The same for all mails of a thread.
    pub subject: String,
    headline: String,
    critical: bool,
    facts: Vec<(&'static str, String)>,
    /// Of a digest: each incident in two lines.
    items: Vec<[String; 2]>,
    /// What the picture shows; `None`: there is none.
    picture: Option<String>,
    links: Vec<(&'static str, String)>,
    commands: Vec<String>,
    or_type: &'static str,
    footer: Vec<String>,
}

/// Text without characters that would change how others are read: line ends and other controls,
/// and those that turn the direction of writing (Unicode TR 9).
fn plain(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| {
            if c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}') {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

impl Letter {
    /// About one notice. `picture`: what the picture shows, if there is one.
    pub fn about(
        notice: &Notice,
        voice: &Voice,
        picture: Option<String>,
        device: Option<&Device>,
        links: Option<&Links>,
    ) -> Self {
        let incident = &notice.incident;
        let id = incident.id();
        let answers: &[Answer] = match (incident.is_open(), &incident.acknowledged) {
            (true, None) => &Answer::ALL,
            (true, Some(_)) => &[Answer::FalseAlarm, Answer::Silence],
            (false, _) => &[Answer::FalseAlarm],
        };
        let mut letter = Self {
            subject: plain(&voice.subject(incident)),
            headline: plain(&voice.headline(notice)),
            critical: is_critical(incident),
            facts: voice
                .facts(notice, device)
                .into_iter()
                .map(|(label, text)| (voice.label(label), plain(&text)))
                .collect(),
            picture: picture.map(|words| plain(&words)),
            ..Self::by(voice)
        };
        if let Some(links) = links {
            let link = |answer: &Answer| {
                let until_ms = notice.at_ms + LINKS_MS;
                let path = links.signer.path(&id, *answer, until_ms);
                (
                    voice.phrase(phrase(*answer)),
                    format!("{}{path}", links.base),
                )
            };
            letter.links = answers.iter().map(link).collect();
        } else {
            let command = |answer: &Answer| format!("engine incidents {} {id}", answer.name());
            letter.commands = answers.iter().map(command).collect();
        }
        letter
    }

    /// About many notices: each incident once, as it was last.
    pub fn digest(notices: &[Notice], voice: &Voice) -> Self {
        let mut last: Vec<(String, &Notice)> = Vec::new();
        for notice in notices {
            let id = notice.incident.id();
            match last.iter_mut().find(|(known, _)| *known == id) {
                Some(known) => known.1 = notice,
                None => last.push((id, notice)),
            }
        }
        let item = |(_, notice): &(String, &Notice)| voice.digest_item(notice).map(|s| plain(&s));
        Self {
            subject: voice.digest_subject(last.len()),
            headline: voice.digest_headline(last.len(), notices.len()),
            critical: last.iter().any(|(_, notice)| is_critical(&notice.incident)),
            items: last.iter().map(item).collect(),
            footer: vec![voice.phrase(Phrase::DigestNote).to_owned()],
            ..Self::by(voice)
        }
    }

    fn by(voice: &Voice) -> Self {
        Self {
            language: voice.language.tag(),
            or_type: voice.phrase(Phrase::OrType),
            ..Self::default()
        }
    }

    /// Says how many mails were sent, one for each recipient, at the end.
    #[must_use]
    pub fn with_budget(mut self, voice: &Voice, used: u32, daily: u32) -> Self {
        let label = voice.label(Label::Budget);
        self.footer
            .push(format!("{label}: {}", voice.budget(used, daily)));
        self
    }

    /// As text, for programs that show nothing else.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.headline);
        let width = self
            .facts
            .iter()
            .map(|(label, _)| label.chars().count())
            .max();
        let width = width.unwrap_or_default() + 2;
        // Writing to a String cannot fail.
        for (label, fact) in &self.facts {
            let _infallible = writeln!(text, "{label:<width$}{fact}");
        }
        for [first, second] in &self.items {
            let _infallible = writeln!(text, "* {first}\n  {second}");
        }
        if !self.links.is_empty() || !self.commands.is_empty() {
            text.push('\n');
        }
        for (label, link) in &self.links {
            let _infallible = writeln!(text, "{label}:\n  {link}");
        }
        if !self.commands.is_empty() {
            let _infallible = writeln!(text, "{}\n  {}", self.or_type, self.commands.join("\n  "));
        }
        if !self.footer.is_empty() {
            let _infallible = writeln!(text, "\n{}", self.footer.join("\n"));
        }
        text
    }

    /// As HTML. The picture is a part of the mail called [`PICTURE`].
    pub fn html(&self) -> String {
        let colour = if self.critical { "#d93025" } else { "#b06000" };
        let edge = format!("border-top:4px solid {colour};padding:16px 16px 8px");
        let body = html! {
            (DOCTYPE)
            html lang=(self.language) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width,initial-scale=1";
                    meta name="color-scheme" content="light";
                    title { (self.subject) }
                }
                body style="margin:0;background:#f6f8fa;color:#1b1f24;\
                            font:16px/1.45 -apple-system,'Segoe UI',Roboto,sans-serif" {
                    div style="max-width:600px;margin:0 auto;background:#fff" {
                        div style=(edge) {
                            h1 style="font-size:20px;line-height:1.3;margin:0 0 12px" { (self.headline) }
                            (self.html_facts())
                            (self.html_items())
                            (self.html_picture())
                            (self.html_answers())
                        }
                        @if !self.footer.is_empty() {
                            p style="margin:0;padding:8px 16px 16px;font-size:13px;color:#5f6368" {
                                @for line in &self.footer { (line) br; }
                            }
                        }
                    }
                }
            }
        };
        body.into_string()
    }

    fn html_facts(&self) -> Markup {
        html! {
            @if !self.facts.is_empty() {
                table role="presentation" cellspacing="0" cellpadding="0" style="width:100%" {
                    @for (label, fact) in &self.facts {
                        tr {
                            td style="padding:3px 12px 3px 0;color:#5f6368;vertical-align:top;\
                                      white-space:nowrap" { (label) }
                            td style="padding:3px 0;width:100%;overflow-wrap:anywhere" { (fact) }
                        }
                    }
                }
            }
        }
    }

    fn html_items(&self) -> Markup {
        html! {
            @for [first, second] in &self.items {
                p style="margin:0 0 10px;overflow-wrap:anywhere" {
                    strong { (first) } br;
                    span style="color:#5f6368" { (second) }
                }
            }
        }
    }

    fn html_picture(&self) -> Markup {
        html! {
            @if let Some(words) = &self.picture {
                p style="margin:16px 0 0;font-size:13px;color:#5f6368" { (words) }
                img src=(format!("cid:{PICTURE}")) alt=(words) width="568"
                    style="display:block;width:100%;height:auto;border:1px solid #e3e6ea";
            }
        }
    }

    fn html_answers(&self) -> Markup {
        html! {
            @if !self.links.is_empty() {
                p style="margin:16px 0 8px" {
                    @for (label, link) in &self.links {
                        a href=(link) style="display:inline-block;margin:0 8px 8px 0;padding:10px 14px;\
                                             border-radius:6px;background:#0b57d0;color:#fff;\
                                             text-decoration:none" { (label) }
                        (PreEscaped(" "))
                    }
                }
            }
            @if !self.commands.is_empty() {
                p style="margin:16px 0 4px;font-size:13px;color:#5f6368" { (self.or_type) }
                @for command in &self.commands {
                    code style="display:block;font:13px/1.5 ui-monospace,monospace;\
                                overflow-wrap:anywhere" { (command) }
                }
            }
        }
    }
}

fn is_critical(incident: &Incident) -> bool {
    incident.severity == crate::score::rules::Severity::Critical && incident.is_open()
}

fn phrase(answer: Answer) -> Phrase {
    match answer {
        Answer::Acknowledge => Phrase::Acknowledge,
        Answer::FalseAlarm => Phrase::FalseAlarm,
        Answer::Silence => Phrase::Silence,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::alert::text::Language;
    use crate::alert::text::tests::{notice, silence};
    use crate::score::incident::{Mark, NoticeKind};
    use crate::stats::device::Change;
    use jiff::tz::TimeZone;
    use vigie_wire::Start;

    fn voice() -> Voice {
        Voice::english(Arc::default())
    }

    #[test]
    fn the_text_part_stands_on_its_own() {
        let notice = notice(NoticeKind::Opened);
        let device = Device {
            started_ms: Some(1_789_999_000_000),
            starts: 3,
            told: Start {
                firmware: Some("1.4.0".to_owned()),
                reset: Some("panic".to_owned()),
                crash: Some("queue.rs:7: full".to_owned()),
            },
            changed: Some(Change {
                at_ms: 1_789_999_000_000,
                from: "1.3.2".to_owned(),
            }),
        };
        let letter = Letter::about(&notice, &voice(), None, Some(&device), None);
        let letter = letter.with_budget(&voice(), 12, 400);
        assert_eq!(
            letter.text(),
            "Something is wrong: C001\n\
             \n\
             What       temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)\n\
             Rule       rate – a jump from one reading to the next, larger than its jumps are\n\
             Also       temperature jumps about by 2.5 °C, usually by less than 0.25 °C (line 0.5 °C) (noise)\n\
             Since      2026-09-21 14:13:20 UTC\n\
             Severity   critical\n\
             So far     1 anomaly\n\
             Restarted  2026-09-21 13:56:40 UTC (panic: queue.rs:7: full)\n\
             Firmware   1.4.0 since 2026-09-21 13:56:40 UTC, before that 1.3.2\n\
             Incident   C001-1790000000000\n\
             \n\
             To answer, type:\n  \
               engine incidents ack C001-1790000000000\n  \
               engine incidents false-alarm C001-1790000000000\n  \
               engine incidents silence C001-1790000000000\n\
             \n\
             Mails: 12 of 400 in the last 24 hours, one for each recipient\n"
        );
    }

    #[test]
    fn the_text_part_says_that_it_is_over_and_for_how_long_it_was() {
        let mut notice = notice(NoticeKind::Resolved);
        notice.incident.resolved_ms = Some(1_790_000_600_000);
        notice.incident.anomalies = 7;
        notice.incident.also.clear();
        notice.incident.acknowledged = Some(Mark {
            at_ms: 1_790_000_060_000,
            by: "Ada".to_owned(),
        });
        let links = Links {
            base: "https://vigie.example.org".to_owned(),
            signer: Signer::new([1; 32]),
        };
        let letter = Letter::about(&notice, &voice(), None, None, Some(&links));
        let text = letter.with_budget(&voice(), 13, 400).text();
        // The signature has tests of its own.
        let (before, link) = text.split_once("https://").unwrap();
        let (link, after) = link.split_once('\n').unwrap();
        assert_eq!(
            before,
            "It is over: C001\n\
             \n\
             What          temperature 31.42 °C, expected 21.3 °C (line 21.9 °C, 16.9 × its distance)\n\
             Rule          rate – a jump from one reading to the next, larger than its jumps are\n\
             Since         2026-09-21 14:13:20 UTC\n\
             Severity      critical\n\
             So far        7 anomalies\n\
             Looked after  by Ada, 2026-09-21 14:14:20 UTC\n\
             Over at       2026-09-21 14:23:20 UTC\n\
             Incident      C001-1790000000000\n\
             \n\
             False alarm:\n  "
        );
        assert!(
            link.starts_with("vigie.example.org/incidents/C001-1790000000000/false-alarm?"),
            "{link}"
        );
        assert_eq!(
            after,
            "\nMails: 13 of 400 in the last 24 hours, one for each recipient\n"
        );
    }

    #[test]
    fn the_text_part_stands_on_its_own_in_french() {
        let voice = Voice {
            language: Language::French,
            zone: TimeZone::get("Europe/Paris").unwrap(),
            ..voice()
        };
        let letter = Letter::about(&silence(NoticeKind::Opened, 3), &voice, None, None, None);
        let letter = letter.with_budget(&voice, 12, 400);
        assert_eq!(letter.subject, "[Vigie] hall: silence");
        assert_eq!(
            letter.text(),
            "Quelque chose ne va pas : 3 capteurs de hall sont muets\n\
             \n\
             Constat    aucune mesure depuis 50 s, une attendue toutes les 10 s (seuil 40 s)\n\
             Règle      silence – le capteur n'envoie plus rien\n\
             Depuis     2026-09-21 16:13:20 CEST\n\
             Gravité    avertissement\n\
             Capteurs   3: C001, C002, C003\n\
             À ce jour  3 anomalies\n\
             Incident   C001-1790000000000-silence\n\
             \n\
             Pour répondre, tapez :\n  \
               engine incidents ack C001-1790000000000-silence\n  \
               engine incidents false-alarm C001-1790000000000-silence\n  \
               engine incidents silence C001-1790000000000-silence\n\
             \n\
             Courriels: 12 sur 400 ces dernières 24 heures, un par destinataire\n"
        );
        let jump = Letter::about(&notice(NoticeKind::Escalated), &voice, None, None, None);
        let text = jump.text();
        assert!(
            text.starts_with(
                "C'est devenu critique : C001\n\
                 \n\
                 Constat    température 31,42 °C, attendu 21,3 °C (seuil 21,9 °C, 16,9 × son écart)\n\
                 Règle      saut – un saut d'une mesure à l'autre, plus grand que ses sauts habituels\n\
                 Aussi      température agitée de 2,5 °C, d'habitude de moins de 0,25 °C (seuil 0,5 °C) \
                 (agitation)\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_digest_has_each_incident_once_as_it_was_last() {
        let mut over = notice(NoticeKind::Resolved);
        over.incident.resolved_ms = Some(1_790_000_600_000);
        let notices = [
            notice(NoticeKind::Opened),
            silence(NoticeKind::Grown, 4),
            over,
        ];
        let letter = Letter::digest(&notices, &voice());
        assert_eq!(letter.subject, "[Vigie] 2 incidents");
        assert_eq!(
            letter.text().split("\n\n").nth(1).unwrap(),
            "* It is over: C001\n  2026-09-21 14:23:20 UTC (C001-1790000000000)\n\
             * More sensors are concerned: 4 sensors of hall are silent\n  \
             no reading for 50 s, expected one every 10 s (line 40 s) \
             (C001-1790000000000-silence)"
        );
    }

    #[test]
    fn nothing_in_it_becomes_markup_or_changes_how_it_is_read() {
        let mut notice = silence(NoticeKind::Opened, 3);
        notice.incident.group = Some("<b>\u{202e}x\r\nBcc: y".to_owned());
        let links = Links {
            base: "https://vigie.example.org".to_owned(),
            signer: Signer::new([1; 32]),
        };
        let letter = Letter::about(
            &notice,
            &voice(),
            Some("<i>".to_owned()),
            None,
            Some(&links),
        );
        let html = letter.html();
        assert!(!html.contains("<b>") && !html.contains("<i>") && html.contains("&lt;b&gt;"));
        for text in [&letter.subject, &html, &letter.text()] {
            assert!(
                !text.contains('\u{202e}') && !text.contains("\r\nBcc"),
                "{text}"
            );
        }
        assert_eq!(
            html.matches("https://vigie.example.org/incidents/").count(),
            3
        );
    }
}
