//! What the layers, the checks and `config show` promise, through [`load`].

use std::fs;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use tempfile::TempDir;
use toml::{Table, Value};

use super::schema::{self, Schema};
use super::settings::Origin;
use super::*;

mod secret;

const MINIMAL: &str = include_str!("../../config/minimal.toml");
const FULL: &str = include_str!("../../config/full.toml");

/// Files for one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o600);
        path
    }
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) {}

fn pairs(env: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    env.into_iter()
}

fn from(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let files = Files::new();
    let path = files.write("vigie.toml", text);
    load(Some(&path), &Overrides::default(), pairs(env), None)
}

fn error(text: &str, env: &[(&str, &str)]) -> String {
    from(text, env).expect_err(text).to_string()
}

/// The problems told, without the lines' beginnings that name temporary paths.
fn told(text: &str) -> Vec<String> {
    let problems = error(text, &[]);
    let lines = problems
        .lines()
        .filter(|line| !line.ends_with("problems in the config"));
    lines
        .map(|line| {
            line.split_once("vigie.toml:")
                .map_or(line, |(_, told)| told)
                .to_owned()
        })
        .collect()
}

#[test]
fn samples_load_and_the_full_one_is_the_default() {
    from(MINIMAL, &[]).unwrap();
    let full = from(FULL, &[]).unwrap();
    let defaults = Table::try_from(Config::default()).unwrap();
    assert_eq!(Table::try_from(&full.config).unwrap(), defaults);
    for key in Schema::new().keys() {
        let has_default = key
            .iter()
            .try_fold(&Value::Table(defaults.clone()), |node, name| node.get(name))
            .is_some();
        let written = matches!(full.origins.of(&schema::dotted(&key)), Origin::File { .. });
        assert_eq!(written, has_default, "{key:?} in full.toml");
    }
}

/// That the values are the defaults is shown above; here, that the comments say the same.
#[test]
fn the_full_sample_tells_the_defaults_that_it_has() {
    let mut comment = String::new();
    let mut told = 0;
    for line in FULL.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment += text;
            comment.push(' ');
            continue;
        }
        if let Some((key, value)) = line.split_once(" = ")
            && !key.starts_with('#')
        {
            let (_, default) = comment.rsplit_once("Default: ").expect(line);
            let default = default.trim_end().strip_suffix('.').expect(line);
            // Behind a comma may stand why.
            let is_same = default
                .strip_prefix(value)
                .is_some_and(|why| why.is_empty() || why.starts_with(", "));
            assert!(is_same, "{line:?}, the comment says {default}");
            told += 1;
        }
        comment.clear();
    }
    assert!(told > 60, "{told}");
}

#[test]
fn the_full_sample_has_every_key() {
    let example = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| !rest.starts_with(' '))
    };
    let uncommented: String = FULL
        .lines()
        .filter(|line| *line != "users = []")
        .map(|line| if example(line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let table: Value = Value::Table(uncommented.parse().unwrap());
    for key in Schema::new().keys() {
        let found = key.iter().try_fold(&table, |node, name| match node {
            Value::Array(list) => list.first(),
            node => node
                .get(name)
                .or_else(|| node.as_table()?.values().find(|_| name == schema::ANY)),
        });
        assert!(found.is_some(), "{key:?} is not in full.toml");
    }
    // As they stand the examples are good, apart from secrets set twice.
    for line in error(&uncommented, &[]).lines().skip(1) {
        assert!(
            line.contains("is set too") || line.contains("not an argon2 hash"),
            "{line}"
        );
    }
}

#[test]
fn stronger_layers_win_and_every_value_says_who_set_it() {
    let files = Files::new();
    let file = files.write(
        "vigie.toml",
        "[stats]\nshares = 1\nsnapshot_every = 1\nwarmup_readings = 11\n[http]\naddr = \"127.0.0.1:1\"\n",
    );
    let dotenv = files.write(
        ".env",
        "VIGIE__STATS__SHARES=2\nVIGIE__STATS__SNAPSHOT_EVERY=2\nX=1\n",
    );
    let env = [
        ("VIGIE__STATS__SHARES", "3"),
        ("VIGIE__HTTP__ADDR", "127.0.0.1:3"),
        ("HOME", "/"),
    ];
    let overrides = Overrides {
        data_dir: Some("elsewhere".into()),
        mqtt: None,
        http: Some("127.0.0.1:4".parse().unwrap()),
    };
    let loaded = load(Some(&file), &overrides, pairs(&env), Some(&dotenv)).unwrap();
    let Config {
        data_dir,
        stats,
        http,
        ..
    } = &loaded.config;
    assert_eq!(
        (stats.shares, stats.snapshot_every, stats.warmup_readings),
        (3, 2, 11)
    );
    assert_eq!(
        (http.addr.port(), data_dir.as_path()),
        (4, Path::new("elsewhere"))
    );
    let name = "VIGIE__STATS__SNAPSHOT_EVERY".to_owned();
    for (key, origin) in [
        ("stats.shares", Origin::Env("VIGIE__STATS__SHARES".into())),
        (
            "stats.snapshot_every",
            Origin::DotEnv {
                path: dotenv.clone(),
                name,
            },
        ),
        (
            "stats.warmup_readings",
            Origin::File {
                path: file.clone(),
                line: 4,
            },
        ),
        ("http.addr", Origin::Flag("--http")),
        ("data_dir", Origin::Flag("--data-dir")),
        ("stats.window", Origin::Default),
    ] {
        assert_eq!(loaded.origins.of(key), origin, "{key}");
    }
}

#[test]
fn without_any_layer_the_defaults_apply() {
    let nowhere = Path::new("no such directory/.env");
    let loaded = load(None, &Overrides::default(), pairs(&[]), Some(nowhere)).unwrap();
    let defaults = Table::try_from(Config::default()).unwrap();
    assert_eq!(Table::try_from(&loaded.config).unwrap(), defaults);
    assert!(loaded.config.remarks().is_empty());
}

#[test]
fn environment_values_are_toml_if_that_fits_else_text() {
    let loaded = from(
        "[quantities.co2]\nunit = \"ppm\"\nmin = 0\nmax = 1000\n",
        &[
            ("VIGIE__PAYLOAD__FLAT__SENSOR", "[\"node\", \"mac\"]"),
            ("VIGIE__PAYLOAD__FLAT__VALUES__TEMPERATURE", "temp"),
            ("VIGIE__QUANTITIES__CO2__MAX", "5000"),
            (
                "VIGIE__QUANTITIES__LUX",
                "{ unit = \"lx\", min = 0, max = 1e5 }",
            ),
            ("VIGIE__STATS__WINDOW", "2h"),
            ("VIGIE__STATS__FREEZE_Z", "5"),
            ("VIGIE__MQTT__USERNAME", "12345"),
            ("VIGIE__MQTT__PASSWORD", "\"quotes are part of it\""),
            ("VIGIE__DATA_DIR", "\"quoted\""),
            ("SMTP_PASSWORD", "abcd efgh"),
            ("SMTP_USER", "weaker@example.org"),
            ("VIGIE__EMAIL__SMTP_USER", "me@example.org"),
            ("EMAIL_TO", ""),
        ],
    );
    let config = loaded.unwrap().config;
    let secret =
        |secret: &Option<SecretString>| secret.as_ref().unwrap().expose_secret().to_owned();
    assert_eq!(config.payload.flat.sensor, ["node", "mac"]);
    assert_eq!(config.payload.flat.values["temperature"], "temp");
    assert_eq!(config.quantities["co2"].max.to_string(), "5000");
    assert_eq!(config.quantities["lux"].unit, "lx");
    assert_eq!(config.stats.window.to_string(), "2h");
    assert_eq!(config.stats.freeze_z.to_string(), "5");
    assert_eq!(config.mqtt.username.as_deref(), Some("12345"));
    assert_eq!(secret(&config.mqtt.password), "\"quotes are part of it\"");
    assert_eq!(config.data_dir, Path::new("quoted"));
    assert_eq!(secret(&config.email.smtp_password), "abcd efgh");
    assert_eq!(config.email.smtp_user.as_deref(), Some("me@example.org"));
    assert_eq!(config.email.email_to, "you@localhost", "empty is not set");
}

#[test]
fn the_python_systems_secrets_load_unchanged() {
    let secrets = "[mongodb]\nuri = \"mongodb+srv://user:pw@cluster0.example.net/?w=majority\"\n\n\
        [mqtt]\nhost = \"abc.s1.eu.hivemq.cloud\"\nport = 8883\nusername = \"node\"\npassword = \"p\"\n\n\
        [email]\nsmtp_host = \"smtp.gmail.com\"\nsmtp_port = 587\nsmtp_user = \"me@gmail.com\"\n\
        smtp_password = \"abcd efgh ijkl mnop\"\nemail_to = \"me@gmail.com\"\n";
    let config = from(secrets, &[]).unwrap().config;
    assert_eq!(config.mqtt.host.as_deref(), Some("abc.s1.eu.hivemq.cloud"));
    assert_eq!(config.email.email_to, "me@gmail.com");
    assert_eq!(
        config.email.smtp_password.as_ref().unwrap().expose_secret(),
        "abcd efgh ijkl mnop"
    );
    let server = config.email.server().unwrap();
    let (user, password) = server.login.unwrap();
    assert_eq!(
        (user.as_str(), password.expose_secret()),
        ("me@gmail.com", "abcdefghijklmnop")
    );
    assert_eq!(
        config.mongodb.target().unwrap().to_string(),
        "cluster0.example.net/vigie"
    );
    assert_eq!(config.remarks(), Vec::<String>::new());
}

#[test]
fn unknown_keys_are_told_with_what_was_meant() {
    for (text, expected) in [
        (
            "listner.addr = 1",
            "1: unknown key listner.addr; did you mean listener.addr?",
        ),
        (
            "[lisener]",
            "1: unknown key lisener; did you mean listener?",
        ),
        (
            "smtp_user = \"x\"",
            "1: unknown key smtp_user; did you mean email.smtp_user?",
        ),
        (
            "[http]\ntokn = \"x\"",
            "2: unknown key http.tokn; did you mean http.token?",
        ),
        (
            "[quantities.co2]\nunit = \"ppm\"\nmin = 0\nmax = 1\nflor = 1",
            "5: unknown key quantities.co2.flor; did you mean quantities.co2.floor?",
        ),
        (
            "[[listener.users]]\nname = \"a\"\npassword_hash = \"\"\npublsh = []",
            "1: unknown key listener.users.0.publsh; did you mean listener.users.0.publish?",
        ),
        (
            "weather = 1",
            "1: unknown key weather; remove it; config/full.toml has all keys",
        ),
    ] {
        assert_eq!(told(text)[0], expected, "{text}");
    }
    assert_eq!(
        error("", &[("VIGIE__LISTNER__ADDR", "x")]),
        "VIGIE__LISTNER__ADDR: unknown key listner.addr; did you mean VIGIE__LISTENER__ADDR?"
    );
    assert!(error("", &[("VIGIE__", "x")]).contains("unknown key"));
}

#[test]
fn bad_values_are_told_with_key_value_and_fix() {
    for (text, expected) in [
        (
            "data_dir = 5",
            "1: data_dir = 5: expected text, found a whole number; write for instance \"vigie-data\"",
        ),
        (
            "[stats]\nshares = -1",
            "2: stats.shares = -1: not a whole number from 0 to 4294967295; write for instance 0",
        ),
        (
            "[stats]\nfreeze_z = nan",
            "2: stats.freeze_z = NaN: out of range; use a value from 1 to 1000",
        ),
        (
            "[listener]\naddr = \"localhost\"",
            "2: listener.addr = \"localhost\": invalid socket address syntax; \
             write for instance \"127.0.0.1:1883\"",
        ),
        (
            "listener = 1",
            "1: listener = …: expected a section, found a whole number; \
             write it as a section, [listener]",
        ),
        (
            "[data_dir]\nx = 1",
            "2: data_dir = {…}: expected text, found a section; write for instance \"vigie-data\"",
        ),
        (
            "[quantities.co2]\nunit = \"ppm\"\nmin = 0",
            "3: quantities.co2.max = (nothing): required; write for instance 5000.0",
        ),
        (
            "[quantities.temperature]\nunit = \"°F\"\nmin = 0\nmax = 9",
            "2: quantities.temperature.unit = °F: temperature is built in and measured in °C; \
             declare a quantity of another name",
        ),
        (
            "[http]\naddr = \"0.0.0.0:80\"",
            "2: http.addr = 0.0.0.0:80: everybody who reaches this address could read everything, \
             because there is no token; set http.token or http.token_file, or serve on 127.0.0.1",
        ),
        (
            "[listener]\nmax_payload_bytes = 4096",
            "2: listener.max_payload_bytes = 4096: devices are promised this, but \
             payload.max_bytes = 8192 is decoded; give both the same value",
        ),
        (
            "[http]\naddr = \"127.0.0.1:1883\"",
            "2: http.addr = 127.0.0.1:1883: listener.addr is the same; give each a port of its own",
        ),
        (
            "[groups.hall]\nsensors = [\"a b\"]",
            "2: groups.hall.sensors = \"a b\": no sensor has such an id; \
             write letters, digits, '_', '-', ':', and '*' or '?' for any",
        ),
        (
            "[[maintenance]]\ncron = \"0 2 * * SUN\"\nfor = \"2h\"\ntime_zone = \"Mars\"",
            "1: maintenance.0.time_zone = Mars: there is no such time zone; \
             write one of the IANA database, such as \"Europe/Paris\"",
        ),
        (
            "[http]\npublic_url = \"vigie.example.org\"",
            "2: http.public_url = \"vigie.example.org\": not an address of a page; \
             write it as in \"https://vigie.example.org\"",
        ),
        (
            "[http]\ncert_file = \"page.pem\"",
            "http.key_file = (nothing): HTTPS needs a certificate and its key; \
             set both http.cert_file and http.key_file",
        ),
        (
            "[http]\ncert_file = \"no-such.pem\"\nkey_file = \"no-such.key\"",
            "2: http.cert_file = no-such.pem: cannot be read: No such file or directory (os error 2); \
             name a PEM file (-----BEGIN CERTIFICATE-----) that the engine may read",
        ),
        (
            "[mqtt]\nport = 70000",
            "2: mqtt.port = 70000: not a whole number from 0 to 65535; write for instance 8883",
        ),
        (
            "a = 1\nb = [",
            "2:6: not TOML: unclosed array, expected `]`",
        ),
    ] {
        assert_eq!(told(text)[0], expected, "{text}");
    }
}

#[test]
fn a_mail_that_could_not_go_is_told_with_key_value_and_fix() {
    for (text, expected) in [
        (
            "[email]\nemail_to = \"a@x.org, b\"",
            "2: email.email_to = \"a@x.org, b\": not a mail address; \
             write one, for instance \"you@example.org\"",
        ),
        (
            "[email]\ncritical_reserve = 400",
            "2: email.critical_reserve = 400: out of range; use a value from 0 to 399",
        ),
        (
            "[email]\nanswer_within = \"9s\"",
            "2: email.answer_within = 9s: out of range; use a value from 10s to 10m",
        ),
        (
            "[email]\nsmtp_host = \"mail.example.org\"\nemail_from = \"me@example.org\"\n\
             email_to = \"a@x.org, b@x.org, c@x.org\"\ndaily_budget = 5\ncritical_reserve = 3",
            "5: email.daily_budget = 5: not enough for one mail about a warning to the 3 addresses in \
             email_to, because critical_reserve = 3 of it are kept; \
             set it to 6 at least, or name fewer addresses",
        ),
        (
            "[email]\nsmtp_host = \"mail.example.org\"\nemail_from = \"me@example.org\"\n\
             email_to = \"a@x.org, b@x.org, c@x.org\"\nseverity = \"critical\"\n\
             daily_budget = 2\ncritical_reserve = 1",
            "6: email.daily_budget = 2: not enough for one mail to the 3 addresses in email_to; \
             set it to 3 at least, or name fewer addresses",
        ),
        (
            "[email]\ngroups = [\"hall\"]",
            "2: email.groups = \"hall\": there is no such group; \
             write [groups.hall] with its sensors, or leave it out",
        ),
    ] {
        assert_eq!(told(text)[0], expected, "{text}");
    }
}

#[test]
fn a_budget_for_one_mail_is_enough() {
    let email = "[email]\nsmtp_host = \"mail.example.org\"\nemail_from = \"me@example.org\"\n\
                 email_to = \"a@x.org, b@x.org, c@x.org\"\n";
    for rest in [
        "daily_budget = 6\ncritical_reserve = 3\n",
        "daily_budget = 3\ncritical_reserve = 2\nseverity = \"critical\"\n",
    ] {
        let config = from(&format!("{email}{rest}"), &[]).unwrap().config;
        assert_eq!(config.email.budget().unwrap().recipients, 3, "{rest}");
    }
}

#[test]
fn the_public_host_is_the_name_of_a_certificate() {
    for (url, host, https) in [
        ("https://vigie.example.org", "vigie.example.org", true),
        (
            "https://vigie.example.org:8443/vigie/",
            "vigie.example.org",
            true,
        ),
        ("http://[::1]:8080", "[::1]", false),
        ("http://[::1]", "[::1]", false),
    ] {
        let text = format!("[http]\npublic_url = {url:?}\n");
        let http = from(&text, &[]).unwrap().config.http;
        assert_eq!(
            (http.public_host(), http.is_public_https()),
            (Some(host), https)
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "colour = 1\n[stats]\nshares = \"x\"\n[score]\nfalse_alarms_per_week = 0\n[store]\ncache = 1\n\
                cache_mib = 0\n";
    let problems = told(text);
    let keys = [
        "colour",
        "stats.shares",
        "store.cache;",
        "score.false_alarms_per_week",
        "store.cache_mib",
    ];
    assert_eq!(problems.len(), keys.len(), "{problems:#?}");
    for (problem, key) in problems.iter().zip(keys) {
        assert!(problem.contains(key), "{problem}");
    }
}

#[test]
fn a_missing_file_is_told_with_the_fix() {
    let path = Path::new("no such file.toml");
    let error = load(Some(path), &Overrides::default(), pairs(&[]), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("no such file.toml: cannot read the config file: "),
        "{error}"
    );
    assert!(
        error.contains("; name an existing file with --config"),
        "{error}"
    );
}

#[test]
fn what_is_shown_is_toml_with_origins_and_loads_again() {
    let hash = listener::hash_password("c4nary").unwrap();
    let text = format!(
        "data_dir = \"a b\"\n[listener]\naddr = \"0.0.0.0:1883\"\n\
         [[listener.users]]\nname = \"a\"\npassword_hash = \"{hash}\"\n\
         [quantities.co2]\nunit = \"ppm\"\nmin = 0\nmax = 5000\n[payload.flat.values]\nco2 = \"CO₂ #\"\n"
    );
    let loaded = from(&text, &[("VIGIE__HTTP__TOKEN", "0123456789abcdef")]).unwrap();
    let shown = loaded.render();
    for part in [
        "data_dir = \"a b\"  # /",
        "vigie.toml:1\n",
        "[listener]\naddr = \"0.0.0.0:1883\"  # ",
        "[[listener.users]]\nname = \"a\"  # ",
        "password_hash = \"[redacted]\"  # ",
        "publish = [\"sensors/%u/#\"]  # default\n",
        "token = \"[redacted]\"  # VIGIE__HTTP__TOKEN\n",
        "[payload.flat.values]\nco2 = \"CO₂ #\"  # ",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(
        !shown.contains("token_file") && !shown.contains(&hash) && !shown.contains("smtp_host")
    );
    let again = shown
        .replace("\"[redacted]\"  # VIGIE", "\"0123456789abcdef\"  # VIGIE")
        .replace("[redacted]", &hash);
    assert_eq!(
        Table::try_from(from(&again, &[]).unwrap().config).unwrap(),
        Table::try_from(loaded.config).unwrap()
    );
}
