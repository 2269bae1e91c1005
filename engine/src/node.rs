//! `engine node`: the config of a node, from what people write to the partition that is flashed, and
//! back to words.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use vigie_wire::node::{Config, Kind, Sleep, file};

use crate::cli::Misuse;
use crate::console::say;

/// Reads `node.toml`, writes the partition, says what is in it.
pub(crate) fn config(from: &Path, to: &Path) -> anyhow::Result<()> {
    let config = read(from)?;
    let bytes = config.encode().map_err(|error| Misuse(error.to_string()))?;
    write_private(to, &bytes).with_context(|| format!("cannot write {}", to.display()))?;
    say(&summary(&config));
    say(&format!("{} bytes in {}", bytes.len(), to.display()));
    for remark in remarks(&config) {
        say(remark);
    }
    Ok(())
}

/// Says what is in a partition.
pub(crate) fn show(from: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let config =
        Config::decode(&bytes).map_err(|error| Misuse(format!("{}: {error}", from.display())))?;
    say(&summary(&config));
    Ok(())
}

fn read(from: &Path) -> anyhow::Result<Config> {
    let text = fs::read_to_string(from).map_err(|error| {
        Misuse(format!(
            "{}: {error}; name the node's config",
            from.display()
        ))
    })?;
    // Files that it names lie beside it.
    let beside: PathBuf = from.parent().unwrap_or(Path::new("")).to_owned();
    let read =
        |name: &str| fs::read_to_string(beside.join(name)).map_err(|error| error.to_string());
    file::parse(&text, &read).map_err(|problems| {
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| format!("{}: {problem}", from.display()))
            .collect();
        Misuse(lines.join("\n  ")).into()
    })
}

/// The partition holds passwords: nobody else may read it.
fn write_private(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    // It may have been there, open to all.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)
}

/// What the config says, without its secrets.
fn summary(config: &Config) -> String {
    let broker = &config.broker;
    let scheme = if broker.tls { "mqtts" } else { "mqtt" };
    let user = broker.user.as_deref().unwrap_or("nobody");
    let mut text = format!("node {}", config.id);
    if !config.board.is_empty() {
        text += &format!(" on {}", config.board);
    }
    text += &format!("\n  every {} ms", config.interval_ms);
    text += match config.sleep {
        Sleep::None => ", connected all the time",
        Sleep::Deep => ", asleep in between",
    };
    text += &format!(
        "\n  to {scheme}://{}:{} as {user}",
        broker.host, broker.port
    );
    if broker.tls {
        let trusted = broker.ca.matches("BEGIN CERTIFICATE").count();
        text += &format!(", {trusted} trusted authorities");
    }
    for wifi in &config.wifi {
        let open = if wifi.password.is_empty() {
            ", open"
        } else {
            ""
        };
        text += &format!("\n  Wi-Fi {}{open}", wifi.ssid);
    }
    text += &format!("\n  time from {}", config.ntp.join(", "));
    for sensor in &config.sensors {
        let kind = match sensor.kind {
            Kind::Sht3x => "SHT3x",
            Kind::Sht4x => "SHT4x",
            Kind::Bme280 => "BME280",
            Kind::Dht22 => "DHT22",
            Kind::Generated => "made up",
            Kind::Recorded => "recorded",
        };
        text += &format!("\n  sensor {}: {kind}", config.id_of(sensor));
        match (sensor.kind, sensor.pin, sensor.address) {
            (Kind::Generated | Kind::Recorded, ..) => {}
            (_, Some(pin), _) => text += &format!(" on GPIO {pin}"),
            (_, None, Some(address)) => {
                text += &format!(" at {address:#04x} on bus {}", sensor.bus);
            }
            (_, None, None) => text += &format!(" on bus {}", sensor.bus),
        }
    }
    if let Some(battery) = config.battery {
        text += &format!("\n  battery on GPIO {}", battery.pin);
    }
    text
}

/// What works on a PC only, or is not to be wished for.
fn remarks(config: &Config) -> Vec<&'static str> {
    let mut remarks = Vec::new();
    if config.wifi.is_empty() {
        remarks.push("note: no [[wifi]]: good for a PC, not for a chip");
    }
    let pc_only = |kind| matches!(kind, Kind::Generated | Kind::Recorded);
    if config.sensors.iter().any(|sensor| pc_only(sensor.kind)) {
        remarks.push("note: a sensor that only a PC has");
    }
    if !config.broker.tls {
        remarks.push("note: tls = false: readings and the password cross the network in the clear");
    }
    if config.ntp.is_empty() {
        remarks.push("note: no time server: readings go out without a time");
    }
    remarks
}
