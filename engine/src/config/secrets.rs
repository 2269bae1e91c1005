//! Secrets: never shown, and read from files of their own (`token_file` for `token`) that others on
//! the machine cannot read.

use std::fs::File;
use std::io::Read;
use std::path::Path as FilePath;

use secrecy::SecretString;
use serde::Serializer;
use toml::Value;
use vigie_actors::config::Invalid;

use super::check::Report;
use super::problem::Problem;
use super::schema::{Path, Schema, dotted};
use super::settings::{Origin, Setting, Settings};

/// Shown in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Whether a serialised value hides what it is; the listener's users have their own word.
pub(super) fn is_redacted(text: &str) -> bool {
    text == REDACTED || text == "<hidden>"
}

/// Serialises that there is a secret, not which.
// The signature is serde's.
#[allow(
    clippy::ref_option,
    reason = "serde passes a reference to the field as it is"
)]
pub(super) fn redacted<S: Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some(REDACTED),
        None => serializer.serialize_none(),
    }
}

/// Puts what the `*_file` keys name in the place of the secrets. Between a secret and its file the
/// stronger layer wins; both in one layer are a problem.
pub(super) fn resolve(settings: &mut Settings, schema: &Schema, report: &mut Report) {
    for (secret, file) in schema.twins() {
        let Some(named) = settings.get(&file).cloned() else {
            continue;
        };
        if let Some(inline) = settings.get(&secret) {
            if inline.origin.rank() > named.origin.rank() {
                settings.remove(&file);
                continue;
            }
            if inline.origin.rank() == named.origin.rank() {
                let invalid = Invalid::new(
                    &dotted(&secret),
                    REDACTED,
                    format!("{} is set too", dotted(&file)),
                    "keep one of them",
                );
                report.unsure(&secret);
                report.problems.push(Problem::Invalid {
                    invalid,
                    origin: named.origin,
                });
                continue;
            }
        }
        match from_file(&named) {
            Ok(setting) => settings.put(secret, setting),
            Err(wrong) => reject(&secret, &file, named, wrong, report),
        }
    }
}

/// What is wrong with a secret's file, and the fix.
type Wrong = (String, String);

fn reject(secret: &Path, file: &Path, named: Setting, (problem, fix): Wrong, report: &mut Report) {
    report.unsure(secret);
    let invalid = Invalid::new(&dotted(file), named.value, problem, fix);
    report.problems.push(Problem::Invalid {
        invalid,
        origin: named.origin,
    });
}

fn from_file(named: &Setting) -> Result<Setting, Wrong> {
    let path = FilePath::new(named.value.as_str().unwrap_or_default());
    let value = Value::String(read(path)?);
    Ok(Setting {
        value,
        origin: Origin::Secret {
            path: path.to_owned(),
        },
    })
}

/// The file's text without the newline at its end.
fn read(path: &FilePath) -> Result<String, Wrong> {
    let unreadable = |error: std::io::Error| {
        let fix = "write the secret into that file, readable for the user that runs the engine";
        (format!("cannot be read: {error}"), fix.to_owned())
    };
    let mut file = File::open(path).map_err(unreadable)?;
    refuse_if_open_to_others(&file, path, unreadable)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_not_shown| {
        (
            "is not UTF-8 text".to_owned(),
            "write the secret as text".to_owned(),
        )
    })?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err((
            "is empty".into(),
            "write the secret into it, or remove the key".into(),
        ));
    }
    Ok(text.to_owned())
}

#[cfg(unix)]
fn refuse_if_open_to_others(
    file: &File,
    path: &FilePath,
    unreadable: impl Fn(std::io::Error) -> Wrong,
) -> Result<(), Wrong> {
    use std::os::unix::fs::PermissionsExt;

    // The group may read: that is how service managers hand credentials over.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err((
            format!(
                "every user of this machine may open it (mode {:03o})",
                mode & 0o777
            ),
            format!("run: chmod 600 {}", path.display()),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_open_to_others(
    _file: &File,
    _path: &FilePath,
    _unreadable: impl Fn(std::io::Error) -> Wrong,
) -> Result<(), Wrong> {
    Ok(())
}
