//! Secrets: where they come from, and that they are nowhere to be seen.

use super::*;

#[test]
fn secrets_come_from_files_that_only_their_owner_reads() {
    let files = Files::new();
    let token = files.write("token", "0123456789abcdef\r\n");
    let named = format!("[http]\ntoken_file = {:?}\n", token.to_str().unwrap());
    let loaded = from(&named, &[]).unwrap();
    assert_eq!(
        loaded.config.http.token.unwrap().expose_secret(),
        "0123456789abcdef"
    );
    assert_eq!(
        loaded.origins.of("http.token"),
        Origin::Secret {
            path: token.clone()
        }
    );

    let inline = "fedcba9876543210";
    let stronger = from(&named, &[("VIGIE__HTTP__TOKEN", inline)])
        .unwrap()
        .config
        .http;
    assert_eq!(stronger.token.unwrap().expose_secret(), inline);
    assert_eq!(stronger.token_file, None);
    let both = error(&format!("{named}token = \"{inline}\""), &[]);
    assert!(
        both.ends_with("http.token = [redacted]: http.token_file is set too; keep one of them")
    );

    fs::write(&token, "\n").unwrap();
    assert!(error(&named, &[]).contains(": is empty; "));
    fs::remove_file(&token).unwrap();
    assert!(error(&named, &[]).contains(": cannot be read: "));
}

#[cfg(unix)]
#[test]
fn secret_files_that_everybody_reads_are_refused() {
    let files = Files::new();
    let path = files.write("password", "secret");
    let env = [("VIGIE__MQTT__PASSWORD_FILE", path.to_str().unwrap())];
    for (mode, accepted) in [(0o600, true), (0o440, true), (0o644, false), (0o602, false)] {
        set_mode(&path, mode);
        match from("", &env) {
            Ok(_) => assert!(accepted, "{mode:o}"),
            Err(error) => {
                let fix = format!("(mode {mode:03o}); run: chmod 600 {}", path.display());
                assert!(!accepted && error.to_string().ends_with(&fix), "{error}");
            }
        }
    }
}

/// Everything that can be printed of an outcome.
fn printed(outcome: Result<Loaded, ConfigError>) -> String {
    match outcome {
        Ok(loaded) => format!("{loaded:?} {:?} {}", loaded.config, loaded.render()),
        Err(error) => format!("{error} {error:?}"),
    }
}

#[test]
fn no_secret_is_ever_printed() {
    const CANARY: &str = "c4nary";
    let long = "mongodb://c4nary:c4nary@host-of-c4nary";
    let files = Files::new();
    let schema = Schema::new();
    let secrets: Vec<_> = schema
        .keys()
        .into_iter()
        .filter(|key| schema.is_secret(key))
        .collect();
    assert_eq!(secrets.len(), 8, "{secrets:?}");
    let named = |path: Vec<String>| -> Vec<String> {
        let chosen = path.into_iter().map(|name| name.replace('*', "any"));
        chosen.collect()
    };
    for (key, file_key) in schema.twins() {
        let (key, file_key) = (named(key), named(file_key));
        let name = key.join(".");
        let env = format!("VIGIE__{}", key.join("__").to_uppercase());
        let mut outcomes = vec![
            from("", &[(&env, CANARY)]),
            from("", &[(&env, long)]),
            from("", &[(&env, "[\"c4nary\"]")]),
            from("", &[(&format!("{env}__X"), CANARY)]),
            from("", &[(&format!("{env}D"), CANARY)]),
            from("[http]\naddr = \"0.0.0.0:1\"", &[(&env, "c4nary ü")]),
        ];
        for value in [
            format!("\"{CANARY}\""),
            format!("\"{long}\""),
            format!("[\"{CANARY}\"]"),
            format!("{{ a = \"{CANARY}\" }}"),
            CANARY.to_owned(),
            format!("\"{CANARY}"),
            format!("\"{CANARY}\"\n{name} = \"{CANARY}\""),
        ] {
            outcomes.push(from(&format!("{name} = {value}"), &[]));
            outcomes.push(from(&format!("{name}x = {value}"), &[]));
            outcomes.push(from(&format!("{} = {value}", key[0]), &[]));
        }
        for content in [
            CANARY.to_owned(),
            long.to_owned(),
            format!("{CANARY}\n{CANARY} ü"),
        ] {
            let path = files.write("secret", &content);
            let named = format!("{} = {:?}", file_key.join("."), path.to_str().unwrap());
            outcomes.push(from(&named, &[]));
            outcomes.push(from(&named, &[(&env, CANARY)]));
            outcomes.push(from(&format!("{named}\n{name} = \"{CANARY}\""), &[]));
            set_mode(&path, 0o644);
            outcomes.push(from(&named, &[]));
        }
        let path = files.write("secret", "");
        fs::write(&path, b"c4nary \xff").unwrap();
        let named = format!("{} = {:?}", file_key.join("."), path.to_str().unwrap());
        outcomes.push(from(&named, &[]));
        for outcome in outcomes {
            let printed = printed(outcome);
            assert!(!printed.contains(CANARY), "{name}: {printed}");
        }
    }
    // Numbers in place of text, hashes in the list of users, a URL in place of a host name.
    for text in [
        "mqtt.password = 4242424242",
        "[[listener.users]]\nname = \"a\"\npassword_hash = 4242424242",
        "[[listener.users]]\nname = \"a\"\npassword_hash = \"4242424242\"",
        "[[listener.users]]\nname = \"a\"\npasword_hash = \"4242424242\"",
        "mqtt.host = \"mqtts://me:4242424242@broker\"",
        "mqtt = [{ password = \"4242424242\" }]",
    ] {
        let printed = printed(from(text, &[]));
        assert!(!printed.contains("4242424242"), "{text}: {printed}");
    }
    let dotenv = files.write(
        ".env",
        "SMTP_PASSWORD=\"c4nary\nVIGIE__MQTT__PASSWORD=c4nary",
    );
    let outcome = load(None, &Overrides::default(), pairs(&[]), Some(&dotenv));
    assert!(outcome.is_err());
    assert!(!printed(outcome).contains(CANARY));
}
