//! Secrets: never shown, and read from files of their own (`token_file` for `token`) that others on
//! the machine cannot read.

use std::path::Path as FilePath;

use toml::Value;
use vigie_actors::config::Invalid;
use vigie_actors::secret::{REDACTED, read_private};

use super::check::Report;
use super::problem::Problem;
use super::schema::{ANY, Path, Schema, dotted};
use super::settings::{Origin, Setting, Settings};

/// Whether a serialised value hides what it is; the listener's users have their own word.
pub(super) fn is_redacted(text: &str) -> bool {
    text == REDACTED || text == "<hidden>"
}

/// Puts what the `*_file` keys name in the place of the secrets. Between a secret and its file the
/// stronger layer wins; both in one layer are a problem.
pub(super) fn resolve(settings: &mut Settings, schema: &Schema, report: &mut Report) {
    let twins = schema.twins().into_iter();
    let twins: Vec<(Path, Path)> = twins
        .flat_map(|(secret, file)| {
            let found = settings.matching(&file);
            let secret_of = move |file: Path| {
                // Where people chose names, they are the same.
                let names = secret
                    .iter()
                    .enumerate()
                    .map(|(at, name)| match file.get(at) {
                        Some(chosen) if name == ANY => chosen.clone(),
                        _ => name.clone(),
                    });
                (names.collect(), file)
            };
            found.into_iter().map(secret_of).collect::<Vec<_>>()
        })
        .collect();
    for (secret, file) in twins {
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
    let bytes = read_private(path).map_err(|unreadable| (unreadable.problem, unreadable.fix))?;
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
