//! The config of a node as people write it: `node.toml`. With feature `file` only; a device has no
//! use for it.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use toml::{Table, Value};

use super::{Battery, Broker, Config, Kind, MAX_SENSORS, Sensor, Sleep, Wifi};
use crate::SensorId;

/// The authorities behind HiveMQ Cloud and every broker with a certificate of Let's Encrypt.
const ISRG: &str = concat!(
    include_str!("../../ca/isrg-root-x1.pem"),
    include_str!("../../ca/isrg-root-x2.pem")
);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the key.
    pub key: String,
    /// What was found there; never a secret.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            problem,
            fix,
        } = self;
        if value.is_empty() {
            write!(f, "{key}: {problem}; {fix}")
        } else {
            write!(f, "{key} = {value}: {problem}; {fix}")
        }
    }
}

impl core::error::Error for Problem {}

/// The config in the text of a `node.toml`. `read` gives the text of a file that it names.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse(
    text: &str,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Config, Vec<Problem>> {
    let table: Table = toml::from_str(text).map_err(|error| {
        vec![Problem {
            key: error.span().map_or_else(
                || "node.toml".to_owned(),
                |span| {
                    let before = text.get(..span.start).unwrap_or_default();
                    format!("line {}", before.matches('\n').count() + 1)
                },
            ),
            value: String::new(),
            problem: error.message().to_owned(),
            fix: "see the sample node.toml".to_owned(),
        }]
    })?;
    let mut problems = Vec::new();
    match config(&table, read, &mut problems) {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// A table that is read key by key; what nobody asked for is unknown.
struct Section<'t, 'p> {
    name: String,
    table: &'t Table,
    asked: BTreeSet<&'static str>,
    problems: &'p mut Vec<Problem>,
}

impl<'t, 'p> Section<'t, 'p> {
    fn new(name: &str, table: &'t Table, problems: &'p mut Vec<Problem>) -> Self {
        Self {
            name: name.to_owned(),
            table,
            asked: BTreeSet::new(),
            problems,
        }
    }

    fn path(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    fn wrong(&mut self, key: &str, value: impl fmt::Display, problem: &str, fix: &str) {
        self.problems.push(Problem {
            key: self.path(key),
            value: value.to_string(),
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        });
    }

    fn get(&mut self, key: &'static str) -> Option<&'t Value> {
        self.asked.insert(key);
        self.table.get(key)
    }

    fn text(&mut self, key: &'static str) -> Option<&'t str> {
        let value = self.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong(key, value, "not a text", "put it in quotes");
        }
        text
    }

    fn number(&mut self, key: &'static str, low: i64, high: i64) -> Option<i64> {
        let value = self.get(key)?;
        let number = value.as_integer().filter(|n| (low..=high).contains(n));
        if number.is_none() {
            let fix = format!("use a whole number from {low} to {high}");
            self.wrong(key, value, "out of range", &fix);
        }
        number
    }

    fn byte(&mut self, key: &'static str, low: u8, high: u8) -> Option<u8> {
        let number = self.number(key, low.into(), high.into())?;
        u8::try_from(number).ok()
    }

    fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong(key, value, "neither true nor false", "write true or false");
        }
        flag
    }

    fn id(&mut self, key: &'static str) -> Option<SensorId> {
        let text = self.text(key)?;
        match SensorId::try_from(text) {
            Ok(id) => Some(id),
            Err(error) => {
                let fix = "use 1 to 64 of A-Z a-z 0-9 _ : -, such as \"C001\"";
                self.wrong(key, Value::from(text), &error.to_string(), fix);
                None
            }
        }
    }

    /// A secret: from its key, or from the file that the key with `_file` behind it names.
    fn secret(
        &mut self,
        key: &'static str,
        key_file: &'static str,
        read: &dyn Fn(&str) -> Result<String, String>,
    ) -> Option<String> {
        match (self.get(key), self.text(key_file)) {
            (None, None) => None,
            (Some(Value::String(text)), None) => Some(text.clone()),
            (Some(_), None) => {
                self.wrong(key, "(hidden)", "not a text", "put it in quotes");
                None
            }
            (Some(_), Some(_)) => {
                let problem = format!("{key} is given as well");
                self.wrong(key_file, "", &problem, "keep one of them");
                None
            }
            (None, Some(path)) => {
                let text = self.file(key_file, path, read)?;
                // An editor ends the last line.
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
    }

    fn file(
        &mut self,
        key: &'static str,
        path: &str,
        read: &dyn Fn(&str) -> Result<String, String>,
    ) -> Option<String> {
        match read(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.wrong(
                    key,
                    Value::from(path),
                    &error,
                    "name a file that can be read",
                );
                None
            }
        }
    }

    /// Tells keys that nobody asked for. Their values may be secrets under a misspelt name.
    fn end(mut self) {
        let known: Vec<&str> = self.asked.iter().copied().collect();
        let fix = format!("known here: {}", known.join(", "));
        let unknown = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.as_str()));
        for key in unknown.cloned().collect::<Vec<_>>() {
            self.wrong(&key, "", "unknown key", &fix);
        }
    }
}

/// Wants a table there.
fn table<'t>(value: &'t Value, name: &str, problems: &mut Vec<Problem>) -> Option<&'t Table> {
    let table = value.as_table();
    if table.is_none() {
        problems.push(Problem {
            key: name.to_owned(),
            value: String::new(),
            problem: "not a section".to_owned(),
            fix: format!("write [{name}] above its keys"),
        });
    }
    table
}

fn config(
    root: &Table,
    read: &dyn Fn(&str) -> Result<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<Config> {
    let mut top = Section::new("", root, problems);
    let id = top.id("id");
    if !root.contains_key("id") {
        top.wrong("id", "", "missing", "name the node, such as id = \"C001\"");
    }
    let board = top.text("board").unwrap_or_default().to_owned();
    let sleep = match top.text("sleep") {
        None | Some("none") => Sleep::None,
        Some("deep") => Sleep::Deep,
        Some(other) => {
            let fix = "use \"none\" or \"deep\"";
            top.wrong("sleep", Value::from(other), "unknown", fix);
            Sleep::None
        }
    };
    let interval_ms = interval(&mut top, sleep);
    let ntp = servers(&mut top);
    let [wifi, broker, sensors, battery] =
        ["wifi", "broker", "sensor", "battery"].map(|key| top.get(key));
    top.end();

    let wifi = list(wifi, "wifi", problems)
        .iter()
        .map(|(name, table)| one_wifi(name, table, read, problems))
        .collect();
    if broker.is_none() {
        problems.push(Problem {
            key: "broker".to_owned(),
            value: String::new(),
            problem: "missing".to_owned(),
            fix: "write a section [broker] with host".to_owned(),
        });
    }
    let broker = broker
        .and_then(|value| table(value, "broker", problems))
        .map(|table| one_broker(table, read, problems));
    let tables = list(sensors, "sensor", problems);
    if tables.is_empty() || tables.len() > MAX_SENSORS {
        problems.push(Problem {
            key: "sensor".to_owned(),
            value: format!("{} of them", tables.len()),
            problem: format!("a node has 1 to {MAX_SENSORS} sensors"),
            fix: "write a section [[sensor]] with kind for each".to_owned(),
        });
    }
    let sensors = tables
        .iter()
        .filter_map(|(name, table)| one_sensor(name, table, problems))
        .collect();
    let battery = battery
        .and_then(|value| table(value, "battery", problems))
        .and_then(|table| one_battery(table, problems));
    Some(Config {
        id: id?,
        board,
        interval_ms,
        sleep,
        wifi,
        broker: broker?,
        ntp,
        sensors,
        battery,
    })
}

/// The sections of a list, each with its name for errors.
fn list<'t>(
    value: Option<&'t Value>,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Vec<(String, &'t Table)> {
    let Some(value) = value else {
        return Vec::new();
    };
    let Some(array) = value.as_array() else {
        problems.push(Problem {
            key: name.to_owned(),
            value: String::new(),
            problem: "not a list of sections".to_owned(),
            fix: format!("write [[{name}]], in two brackets"),
        });
        return Vec::new();
    };
    (1..)
        .zip(array)
        .filter_map(|(nth, value)| {
            let name = format!("{name}.{nth}");
            table(value, &name, problems).map(|table| (name, table))
        })
        .collect()
}

fn interval(top: &mut Section<'_, '_>, sleep: Sleep) -> u32 {
    const USUAL_MS: u32 = 10_000;
    let Some(text) = top.text("interval") else {
        return USUAL_MS;
    };
    let low = match sleep {
        Sleep::None => 100,
        // Starting, joining and sending takes most of it otherwise.
        Sleep::Deep => 10_000,
    };
    if let Some(ms) = span_ms(text).filter(|ms| (low..=86_400_000).contains(ms)) {
        return ms;
    }
    let fix = match sleep {
        Sleep::None => "use 100ms to 24h, such as \"10s\"",
        Sleep::Deep => "with sleep = \"deep\" use 10s to 24h, such as \"5m\"",
    };
    top.wrong(
        "interval",
        Value::from(text),
        "not a span of time that works",
        fix,
    );
    USUAL_MS
}

/// `"10s"`, `"250ms"`, `"5m"`, `"1h"` in ms.
fn span_ms(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let size = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(size)
}

fn servers(top: &mut Section<'_, '_>) -> Vec<String> {
    let Some(value) = top.get("ntp") else {
        return vec!["pool.ntp.org".to_owned(), "time.google.com".to_owned()];
    };
    let hosts: Option<Vec<String>> = value.as_array().and_then(|array| {
        let host = |value: &Value| Some(value.as_str().filter(|host| is_host(host))?.to_owned());
        array.iter().map(host).collect()
    });
    match hosts {
        Some(hosts) if hosts.len() <= 4 => hosts,
        _ => {
            let fix = "write up to 4 host names, such as [\"pool.ntp.org\"]";
            top.wrong("ntp", value, "not a list of hosts", fix);
            Vec::new()
        }
    }
}

fn is_host(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    !text.is_empty() && text.len() <= 253 && text.chars().all(allowed)
}

fn one_wifi(
    name: &str,
    table: &Table,
    read: &dyn Fn(&str) -> Result<String, String>,
    problems: &mut Vec<Problem>,
) -> Wifi {
    let mut section = Section::new(name, table, problems);
    let ssid = section.text("ssid").unwrap_or_default();
    if ssid.is_empty() || ssid.len() > 32 {
        let problem = "a network's name has 1 to 32 bytes";
        section.wrong(
            "ssid",
            Value::from(ssid),
            problem,
            "write the name of the network",
        );
    }
    let password = section.secret("password", "password_file", read);
    if let Some(password) = &password
        && !(8..=64).contains(&password.len())
    {
        let problem = "a Wi-Fi password has 8 to 64 bytes";
        let fix = "leave it out for an open network";
        section.wrong("password", "(hidden)", problem, fix);
    }
    section.end();
    Wifi {
        ssid: ssid.to_owned(),
        password: password.unwrap_or_default(),
    }
}

fn one_broker(
    table: &Table,
    read: &dyn Fn(&str) -> Result<String, String>,
    problems: &mut Vec<Problem>,
) -> Broker {
    let mut section = Section::new("broker", table, problems);
    let host = section.text("host").unwrap_or_default();
    if !is_host(host) || (host.contains(':') && host.parse::<core::net::Ipv6Addr>().is_err()) {
        let fix = "write the name or address alone, without scheme and port";
        // Some write a URL here, with the password in it.
        let shown = host.rsplit('@').next().unwrap_or_default();
        section.wrong("host", Value::from(shown), "not a host", fix);
    }
    let tls = section.flag("tls").unwrap_or(true);
    let usual = if tls { 8883 } else { 1883 };
    let port = section.number("port", 1, 65_535).unwrap_or(usual);
    let user = section.text("user");
    if let Some(user) = user
        && (user.is_empty() || user.len() > 256)
    {
        let fix = "leave it out if the broker wants none";
        section.wrong("user", Value::from(user), "a user has 1 to 256 bytes", fix);
    }
    let password = section.secret("password", "password_file", read);
    if password.is_some() && user.is_none() {
        section.wrong(
            "user",
            "",
            "missing beside a password",
            "write the user's name",
        );
    }
    if let Some(password) = &password
        && password.len() > 256
    {
        section.wrong(
            "password",
            "(hidden)",
            "longer than 256 bytes",
            "use a shorter one",
        );
    }
    let ca = match section.text("ca_file") {
        Some(path) => {
            let ca = section.file("ca_file", path, read).unwrap_or_default();
            if !ca.is_empty() && !ca.contains("-----BEGIN CERTIFICATE-----") {
                let fix = "name a PEM file with the authority's certificate";
                section.wrong("ca_file", Value::from(path), "holds no certificate", fix);
            } else if !tls {
                let fix = "leave it out, or write tls = true";
                section.wrong("ca_file", Value::from(path), "of no use without TLS", fix);
            }
            ca
        }
        None if tls => ISRG.to_owned(),
        None => String::new(),
    };
    section.end();
    Broker {
        host: host.to_owned(),
        port: u16::try_from(port).unwrap_or_default(),
        tls,
        user: user.map(ToOwned::to_owned),
        password,
        ca: certificates(&ca),
    }
}

/// The certificates of a PEM text without the words around them: flash is small.
fn certificates(pem: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in pem.lines().map(str::trim) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            out.push_str(line);
            out.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    out
}

fn one_sensor(name: &str, table: &Table, problems: &mut Vec<Problem>) -> Option<Sensor> {
    let mut section = Section::new(name, table, problems);
    let id = section.id("id");
    let kind = section.text("kind");
    let kind = match kind {
        Some("sht3x") => Some(Kind::Sht3x),
        Some("sht4x") => Some(Kind::Sht4x),
        Some("bme280") => Some(Kind::Bme280),
        Some("dht22") => Some(Kind::Dht22),
        Some("generated") => Some(Kind::Generated),
        Some("recorded") => Some(Kind::Recorded),
        other => {
            let fix = "use sht3x, sht4x, bme280, dht22, or on a PC generated or recorded";
            let value = other.map(Value::from);
            let value = value.map_or_else(String::new, |value| value.to_string());
            section.wrong("kind", value, "not a kind of sensor", fix);
            None
        }
    };
    let bus = section.byte("bus", 0, 1);
    let address = section.byte("address", 0x08, 0x77);
    let pin = section.byte("pin", 0, 48);
    let file = section.text("file");
    match kind {
        Some(Kind::Dht22) if pin.is_none() && !table.contains_key("pin") => {
            section.wrong(
                "pin",
                "",
                "missing",
                "write the GPIO number of its data wire",
            );
        }
        Some(Kind::Recorded) if file.is_none() => {
            section.wrong("file", "", "missing", "name a CSV file");
        }
        Some(Kind::Sht3x | Kind::Sht4x | Kind::Bme280) if pin.is_some() => {
            let fix = "remove it; the pins of a bus belong to the board";
            section.wrong("pin", "", "this sensor is on an I²C bus", fix);
        }
        _ => {}
    }
    section.end();
    Some(Sensor {
        id,
        kind: kind?,
        bus: bus.unwrap_or_default(),
        address,
        pin,
        file: file.map(ToOwned::to_owned),
    })
}

fn one_battery(table: &Table, problems: &mut Vec<Problem>) -> Option<Battery> {
    let mut section = Section::new("battery", table, problems);
    let pin = section.byte("pin", 0, 48);
    if !table.contains_key("pin") {
        section.wrong("pin", "", "missing", "write the GPIO number of the divider");
    }
    let value = section.get("divider");
    let divider = match value {
        None => Some(2.0),
        Some(value) => value
            .as_float()
            .or(value.as_integer().map(|whole| whole as f64)),
    };
    let milli = divider.filter(|divider| (1.0..=100.0).contains(divider));
    if milli.is_none()
        && let Some(value) = value
    {
        let fix = "write battery voltage divided by pin voltage, from 1 to 100";
        section.wrong("divider", value, "not a divider", fix);
    }
    section.end();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1,000 to 100,000"
    )]
    let divider_milli = (milli? * 1000.0 + 0.5) as u32;
    Some(Battery {
        pin: pin?,
        divider_milli,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "id = \"C001\"\n[broker]\nhost = \"localhost\"\n[[sensor]]\nkind = \"sht3x\"\n";

    fn no_files(path: &str) -> Result<String, String> {
        Err(format!("no {path}"))
    }

    fn problems(text: &str) -> Vec<String> {
        let problems = parse(text, &no_files).expect_err(text);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_those_of_a_node_at_a_public_broker() {
        let config = parse(GOOD, &no_files).unwrap();
        assert_eq!((config.interval_ms, config.sleep), (10_000, Sleep::None));
        assert_eq!((config.broker.port, config.broker.tls), (8883, true));
        assert_eq!(config.broker.ca.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(config.ntp, ["pool.ntp.org", "time.google.com"]);
        assert_eq!(Config::decode(&config.encode().unwrap()), Ok(config));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_with_its_fix() {
        let text = "id = \"a b\"\ninterval = \"3 weeks\"\nsleep = \"light\"\ncolour = 1\n\
                    [[wifi]]\nssid = \"\"\npassword = \"short\"\n\
                    [broker]\nhost = \"mqtt://x\"\nport = 0\npassword = \"canary\"\n\
                    [[sensor]]\nkind = \"dht22\"\n[[sensor]]\nkind = \"thermometer\"\n\
                    [battery]\npin = 99\ndivider = 0";
        let told = problems(text);
        for key in [
            "id = ",
            "interval = \"3 weeks\": ",
            "sleep = ",
            "colour: unknown key",
            "wifi.1.ssid = ",
            "wifi.1.password = (hidden): ",
            "broker.host = ",
            "broker.port = 0: ",
            "broker.user: missing",
            "sensor.1.pin: missing",
            "sensor.2.kind = ",
            "battery.pin = 99: ",
            "battery.divider = 0: ",
        ] {
            let found = told.iter().find(|told| told.starts_with(key));
            let fix = found.unwrap_or_else(|| panic!("{key}: {told:#?}"));
            assert!(fix.contains("; "), "{fix}");
        }
        assert_eq!(told.len(), 13, "{told:#?}");
        assert!(!told.concat().contains("canary"), "{told:#?}");
    }

    #[test]
    fn secrets_come_from_files_and_never_twice() {
        let read = |path: &str| match path {
            "wifi.txt" => Ok("a secret word\n".to_owned()),
            _ => Err("No such file".to_owned()),
        };
        let text = [
            GOOD,
            "[[wifi]]\nssid = \"home\"\npassword_file = \"wifi.txt\"\n",
        ]
        .concat();
        let config = parse(&text, &read).unwrap();
        assert_eq!(config.wifi[0].password, "a secret word");
        assert!(!format!("{config:?}").contains("a secret word"));
        let told = problems(&[text.as_str(), "password = \"another word\"\n"].concat());
        assert_eq!(
            told,
            ["wifi.1.password_file: password is given as well; keep one of them"]
        );
        let missing = text.replace("wifi.txt", "other.txt");
        let told = parse(&missing, &read).unwrap_err();
        assert_eq!(told[0].problem, "No such file");
    }

    #[test]
    fn what_is_no_toml_names_the_line() {
        let told = problems("id = \"C001\"\nboard = = 1\n");
        assert!(told[0].starts_with("line 2: "), "{told:?}");
    }

    #[test]
    fn deep_sleep_needs_a_long_interval() {
        let told = problems(&["sleep = \"deep\"\ninterval = \"5s\"\n", GOOD].concat());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("10s to 24h"), "{told:?}");
    }
}
