//! What can be typed at the console.

use alloc::format;
use alloc::string::String;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;

use crate::settings::Key;
use crate::shared::Shared;
use crate::{Board, Keys};

/// The longest line.
const MAX_LINE: usize = 256;

const HELP: &str = "show              what the node does
set KEY VALUE     change a setting, from the next start on
reboot            restart now";

/// A line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'l> {
    Nothing,
    Show,
    Reboot,
    Help,
    Set(Key, &'l str),
    Wrong(&'static str),
}

/// Understands a line. No bytes make it panic.
pub(crate) fn parse(line: &[u8]) -> Command<'_> {
    let Ok(line) = str::from_utf8(line) else {
        return Command::Wrong("that is not text");
    };
    let line = line.trim();
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match (word, rest.trim()) {
        ("", _) => Command::Nothing,
        ("show", "") => Command::Show,
        ("reboot", "") => Command::Reboot,
        ("help", _) => Command::Help,
        ("set", rest) => match rest.split_once(' ') {
            Some((name, value)) => match Key::named(name) {
                Some(key) => Command::Set(key, value.trim()),
                None => Command::Wrong(
                    "unknown key; known: wifi.ssid wifi.password broker.host broker.port \
                     broker.user broker.password interval_ms",
                ),
            },
            None => Command::Wrong("write: set KEY VALUE"),
        },
        _ => Command::Wrong("unknown command; try help"),
    }
}

/// Reads lines and does what they say, until one of them is `reboot`.
pub(crate) async fn run<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    keys: &mut impl Keys,
) {
    let mut line = alloc::vec::Vec::with_capacity(MAX_LINE);
    let mut bytes = [0; 32];
    loop {
        let length = keys.read(&mut bytes).await;
        for &byte in bytes.get(..length).unwrap_or_default() {
            match byte {
                b'\r' | b'\n' => {
                    if obey(shared, &line).await {
                        return;
                    }
                    line.clear();
                }
                // Backspace.
                8 | 127 => {
                    line.pop();
                }
                _ if line.len() < MAX_LINE => line.push(byte),
                _ => {}
            }
        }
    }
}

/// True: restart.
async fn obey<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
    line: &[u8],
) -> bool {
    match parse(line) {
        Command::Nothing => {}
        Command::Help => HELP.lines().for_each(|line| shared.say(line)),
        Command::Wrong(why) => shared.say(why),
        Command::Show => {
            for line in show(shared).await.lines() {
                shared.say(line);
            }
        }
        Command::Reboot => return true,
        Command::Set(key, value) => {
            let mut tried = shared.config.clone();
            if let Err(why) = key.apply(value, &mut tried) {
                shared.say(&why);
                return false;
            }
            let number = Key::ALL.iter().position(|one| *one == key).unwrap_or(0);
            let number = u8::try_from(number).unwrap_or(0);
            let mut facts = shared.facts.lock().await;
            if facts.set_setting(number, shared.fingerprint, value).await {
                shared.say("kept; it is used from the next start on (reboot)");
            } else {
                shared.say("the flash did not take it");
            }
        }
    }
    false
}

/// The state of the node. Secrets are not in it.
pub(crate) async fn show<B: Board, F: MultiwriteNorFlash, S: MultiwriteNorFlash>(
    shared: &Shared<B, F, S>,
) -> String {
    let counts = shared.counts().await;
    let config = &shared.config;
    let uptime_ms = shared.board.uptime_ms();
    let clock = shared.clock.get();
    let boot = str::from_utf8(&shared.boot).unwrap_or_default();
    let scheme = if config.broker.tls { "mqtts" } else { "mqtt" };
    let mut text = format!(
        "id {} boot {} up {} s\n",
        config.id,
        boot.trim_end_matches('\0'),
        uptime_ms / 1000
    );
    text += &match clock.utc(uptime_ms) {
        Some(utc_ms) => format!("time {utc_ms} ms since 1970\n"),
        None => "time unknown: no time server answers\n".into(),
    };
    text += &format!(
        "broker {scheme}://{}:{} user {} {}\n",
        config.broker.host,
        config.broker.port,
        config.broker.user.as_deref().unwrap_or("none"),
        shared.link.borrow()
    );
    for wifi in &config.wifi {
        text += &format!("wifi {}\n", wifi.ssid);
    }
    text += &format!(
        "interval {} ms, {} sensors\n",
        config.interval_ms,
        config.sensors.len()
    );
    text += &format!(
        "readings {} acknowledged {} waiting {} dropped {} refused {}\n",
        counts.readings, counts.acknowledged, counts.waiting, counts.dropped, counts.refused
    );
    text += &format!(
        "failed reads {} connects {} flash errors {}",
        counts.failed_reads, counts.connects, counts.flash_errors
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        for (line, command) in [
            (" show \t", Command::Show),
            ("reboot", Command::Reboot),
            ("", Command::Nothing),
            ("help me", Command::Help),
            ("set broker.port  1884 ", Command::Set(Key::Port, "1884")),
            (
                "set wifi.password two words",
                Command::Set(Key::WifiPassword, "two words"),
            ),
            ("set broker.port", Command::Wrong("write: set KEY VALUE")),
            ("fly", Command::Wrong("unknown command; try help")),
        ] {
            assert_eq!(parse(line.as_bytes()), command, "{line:?}");
        }
        assert!(matches!(parse(b"set colour red"), Command::Wrong(_)));
        assert!(matches!(parse(b"\xff\xfe"), Command::Wrong(_)));
    }
}
