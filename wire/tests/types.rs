//! Ids, names, topics and messages, each on its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use vigie_wire::topic::{self, Kind};
use vigie_wire::{
    BootId, BootIdError, HUMIDITY, Quantities, QuantityId, QuantityNameError, SensorId,
    SensorIdError, TEMPERATURE, decode,
};

fn sensor(id: &str) -> SensorId {
    id.parse().expect("a sensor id")
}

fn boot(id: &str) -> BootId {
    id.parse().expect("a boot id")
}

#[test]
fn a_sensor_id_is_its_text() {
    for text in ["A", "aZ09_:-", &"x".repeat(64)] {
        let id = sensor(text);
        assert_eq!(id.as_str(), text);
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), format!("{text:?}"));
        assert_eq!(format!("{id:>70}"), format!("{text:>70}"));
        let state = RandomState::new();
        assert_eq!(state.hash_one(id), state.hash_one(text));
        let json = serde_json::to_string(&id).expect("json");
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<SensorId>(&json).expect("an id"), id);
    }
    assert!(serde_json::from_str::<SensorId>("\"a b\"").is_err());
    assert!(serde_json::from_str::<SensorId>("5").is_err());
    let map = HashMap::from([(sensor("C001"), 1)]);
    assert_eq!(map.get("C001"), Some(&1));
}

#[test]
fn sensor_ids_order_as_texts() {
    let texts = ["-", "0", "A", "AB", "B", "a", "a0", "b"];
    for a in texts {
        for b in texts {
            assert_eq!(sensor(a).cmp(&sensor(b)), a.cmp(b));
            assert_eq!(sensor(a) == sensor(b), a == b);
        }
    }
}

#[test]
fn other_texts_are_no_sensor_ids() {
    let character = |position, character| SensorIdError::Character {
        position,
        character,
    };
    for (text, error) in [
        ("", SensorIdError::Empty),
        (&*"x".repeat(65), SensorIdError::TooLong { len: 65 }),
        (&*"x".repeat(1000), SensorIdError::TooLong { len: 1000 }),
        ("a b", character(1, ' ')),
        ("a/", character(1, '/')),
        ("a\0", character(1, '\0')),
        ("aé", character(1, 'é')),
    ] {
        assert_eq!(text.parse::<SensorId>(), Err(error), "{text}");
        assert!(!error.to_string().contains(char::is_control));
    }
}

#[test]
fn a_boot_id_is_its_text() {
    for text in ["0", "9f3a", "aZ09aZ09"] {
        let id = boot(text);
        assert_eq!(id.as_str(), text);
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), format!("{text:?}"));
        assert_eq!(BootId::from_bytes(id.to_bytes()), Ok(id));
        let json = serde_json::to_string(&id).expect("json");
        assert_eq!(serde_json::from_str::<BootId>(&json).expect("an id"), id);
    }
    assert!(boot("a") < boot("a0") && boot("a0") < boot("b"));
}

#[test]
fn other_texts_and_bytes_are_no_boot_ids() {
    let character = |position, character| BootIdError::Character {
        position,
        character,
    };
    for (text, error) in [
        ("", BootIdError::Empty),
        ("123456789", BootIdError::TooLong { len: 9 }),
        ("a-", character(1, '-')),
        ("a\0", character(1, '\0')),
        ("é", character(0, 'é')),
    ] {
        assert_eq!(text.parse::<BootId>(), Err(error), "{text}");
    }
    for (bytes, error) in [
        ([0; 8], BootIdError::Empty),
        (*b"ab\0c\0\0\0\0", character(2, '\0')),
        (*b"\0abc\0\0\0\0", character(0, '\0')),
        (*b"abcdefg\xff", character(7, 'ÿ')),
    ] {
        assert_eq!(BootId::from_bytes(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn quantities_are_found_by_name_and_by_id() {
    let mut all = Quantities::builtin();
    assert_eq!(all.get("temperature"), Some(TEMPERATURE));
    assert_eq!(all.get("humidity"), Some(HUMIDITY));
    for (name, id) in [
        ("pressure", 2),
        ("co2", 3),
        ("a", 4),
        ("zz", 5),
        (&*"x".repeat(32), 6),
    ] {
        assert_eq!(all.push(name), Ok(QuantityId(id)));
    }
    assert_eq!(all.len(), 7);
    assert!(!all.is_empty());
    assert_eq!(all.iter().len(), 7);
    for (id, name) in all.iter() {
        assert_eq!(all.get(name), Some(id));
        assert_eq!(all.name(id), Some(name));
    }
    assert_eq!(all.get("pressur"), None);
    assert_eq!(all.name(QuantityId(7)), None);
}

#[test]
fn other_names_are_no_quantities() {
    let mut all = Quantities::builtin();
    let character = |position, character| QuantityNameError::Character {
        position,
        character,
    };
    for (name, error) in [
        ("", QuantityNameError::Empty),
        (&*"x".repeat(33), QuantityNameError::TooLong { len: 33 }),
        ("Co2", character(0, 'C')),
        ("2co", character(0, '2')),
        ("_co", character(0, '_')),
        ("pm2.5", character(3, '.')),
        ("tempé", character(4, 'é')),
        ("humidity", QuantityNameError::Duplicate { id: HUMIDITY }),
    ] {
        assert_eq!(all.push(name), Err(error), "{name}");
    }
    for name in [
        "v",
        "id",
        "boot",
        "seq",
        "t",
        "next_s",
        "time",
        "timestamp",
        "sensor",
        "z",
        "score",
        "anomaly",
        "received",
    ] {
        assert_eq!(all.push(name), Err(QuantityNameError::Reserved { name }));
    }
    assert_eq!(all, Quantities::builtin());
}

#[test]
fn there_are_at_most_255_quantities() {
    let mut all = Quantities::builtin();
    for n in 2..255 {
        assert_eq!(all.push(&format!("q{n}")), Ok(QuantityId(n)));
    }
    assert_eq!(all.push("more"), Err(QuantityNameError::Full));
    assert_eq!(all.len(), 255);
    assert_eq!(all.iter().last(), Some((QuantityId(254), "q254")));
    assert_eq!(all.get("q254"), Some(QuantityId(254)));
}

#[test]
fn topics_name_the_sensor() {
    let id = sensor("a:b");
    assert_eq!(topic::reading(&id), "sensors/a:b/reading");
    assert_eq!(topic::status(&id), "sensors/a:b/status");
    assert_eq!(
        topic::parse("sensors/a:b/reading"),
        Some((id, Kind::Reading))
    );
    assert_eq!(topic::parse("sensors/a:b/status"), Some((id, Kind::Status)));
    for other in [
        "",
        "sensors",
        "sensors/",
        "sensors/reading",
        "sensors//reading",
        "sensors/a",
        "sensors/a/",
        "sensors/a/other",
        "sensors/a/reading/",
        "sensors/a/b/reading",
        "/sensors/a/reading",
        "Sensors/a/reading",
        "sensors/+/reading",
    ] {
        assert_eq!(topic::parse(other), None, "{other}");
    }
}

/// What a person who wires a device reads in the log.
#[test]
fn messages_name_the_key_and_what_to_do() {
    let says = |payload: &str| {
        decode(payload.as_bytes(), &Quantities::builtin())
            .expect_err(payload)
            .to_string()
    };
    for (payload, message) in [
        (
            r#"{"id":"C001","temperature":"21.4"}"#,
            "key 'temperature' has a string, send a number or leave the key out",
        ),
        (
            r#"{"id":"C001","seq":-1,"temperature":21.4}"#,
            "key 'seq' has a negative number, send an integer from 0 to 18446744073709551615 or \
             leave the key out",
        ),
        (
            r#"{"id":"C001","temperature":NaN}"#,
            "key 'temperature' has a number that is not finite, send a finite one or leave the \
             key out",
        ),
        (
            r#"{"id":"C\u001b[31m","temperature":21.4}"#,
            r"key 'id': a sensor id has '\u{1b}' at byte 1, use only A-Z a-z 0-9 _ : -",
        ),
        (
            r#"{"id":"C001","temperature":21.4"#,
            "the payload is not json: EOF while parsing an object at line 1 column 31; send one \
             json object per message",
        ),
        (
            r#"{"v":2,"id":"C001"}"#,
            "key 'v' is 2, send version 1 or update this program",
        ),
        (
            r#"{"temperature":21.4}"#,
            "key 'id' is missing, send the id of the sensor",
        ),
    ] {
        assert_eq!(says(payload), message);
    }
}
