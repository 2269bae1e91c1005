//! The config partition of a node against its golden vector, which was made by other code than this.

use serde_json::Value;
use vigie_wire::SensorId;
use vigie_wire::node::{
    Battery, Broker, Config, Error, Kind, MAX_SENSORS, Sensor, Sleep, Wifi, crc32,
};

fn vector() -> (Vec<u8>, Config) {
    let file: Value = serde_json::from_str(include_str!("../vectors/node.json")).expect("JSON");
    let hex = file["partition_hex"].as_str().expect("a text");
    let bytes = (0..hex.len() / 2)
        .map(|nth| u8::from_str_radix(&hex[2 * nth..2 * nth + 2], 16).expect("hex"))
        .collect();
    let id = |text: &str| SensorId::try_from(text).expect("an id");
    let sensor = |kind, address, pin| Sensor {
        id: None,
        kind,
        bus: 0,
        address,
        pin,
        file: None,
    };
    let config = Config {
        id: id("C001"),
        board: "esp32c3-devkitm-1".to_owned(),
        interval_ms: 10_000,
        sleep: Sleep::Deep,
        wifi: vec![Wifi {
            ssid: "home".to_owned(),
            password: "12345678".to_owned(),
        }],
        broker: Broker {
            host: "broker.example".to_owned(),
            port: 8883,
            tls: true,
            user: Some("node".to_owned()),
            password: Some("pw".to_owned()),
            ca: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        },
        ntp: vec!["pool.ntp.org".to_owned()],
        sensors: vec![
            sensor(Kind::Sht3x, Some(0x44), None),
            Sensor {
                id: Some(id("C002")),
                ..sensor(Kind::Dht22, None, Some(4))
            },
        ],
        battery: Some(Battery {
            pin: 2,
            divider_milli: 2_000,
        }),
    };
    (bytes, config)
}

#[test]
fn a_config_is_these_bytes_and_back() {
    let (bytes, config) = vector();
    assert_eq!(config.encode(), Ok(bytes.clone()));
    assert_eq!(Config::decode(&bytes), Ok(config.clone()));
    // As it lies in flash: behind it is what was erased.
    assert_eq!(
        Config::decode(&[bytes, vec![0xff; 999]].concat()),
        Ok(config)
    );
}

#[test]
fn what_is_no_config_or_damaged_is_refused_for_the_right_reason() {
    let (bytes, _) = vector();
    let changed = |place: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[place] = byte;
        Config::decode(&bytes)
    };
    assert_eq!(Config::decode(&[0xff; 4096]), Err(Error::NoConfig));
    assert_eq!(Config::decode(&bytes[..15]), Err(Error::NoConfig));
    assert_eq!(changed(0, b'v'), Err(Error::NoConfig));
    assert_eq!(changed(4, 2), Err(Error::Version(2)));
    assert!(matches!(changed(11, 1), Err(Error::Length(_))));
    assert_eq!(changed(12, bytes[12] ^ 1), Err(Error::Checksum));
    assert_eq!(changed(40, bytes[40] ^ 1), Err(Error::Checksum));
    for end in 0..bytes.len() {
        assert!(Config::decode(&bytes[..end]).is_err(), "{end}");
    }
}

#[test]
fn no_partition_has_more_sensors_than_a_node() {
    let (_, mut config) = vector();
    config.sensors = vec![config.sensors[0].clone(); MAX_SENSORS];
    assert_eq!(
        Config::decode(&config.encode().unwrap()),
        Ok(config.clone())
    );
    config.sensors.push(config.sensors[0].clone());
    let refused = Error::Sensors(MAX_SENSORS + 1);
    assert_eq!(config.encode(), Err(refused));
    // As other code than this may have written it.
    let body = serde_json::to_vec(&config).unwrap();
    let mut bytes = b"VIGN\x01\0\0\0".to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(crc32(&body).to_le_bytes());
    bytes.extend(body);
    assert_eq!(Config::decode(&bytes), Err(refused));
}

#[test]
fn neither_passwords_nor_the_ca_show_in_debug() {
    let (_, config) = vector();
    let shown = format!("{config:?}");
    assert!(
        shown.contains("C001") && shown.contains("broker.example"),
        "{shown}"
    );
    for secret in ["12345678", "\"pw\""] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
