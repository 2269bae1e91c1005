//! Secrets: never shown, and read only from files that others on the machine cannot read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use secrecy::SecretString;
use serde::Serializer;

/// Shown in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Serialises that there is a secret, not which.
///
/// # Errors
/// Those of the serialiser.
// The signature is serde's.
#[allow(
    clippy::ref_option,
    reason = "serde passes a reference to the field as it is"
)]
pub fn redacted<S: Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => serializer.serialize_some(REDACTED),
        None => serializer.serialize_none(),
    }
}

/// Why a private file is not read, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; {fix}")]
pub struct Unreadable {
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Reads a file that holds a secret.
///
/// # Errors
/// [`Unreadable`], also if every user of the machine may open the file.
pub fn read_private(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let unreadable = |error: io::Error| Unreadable {
        problem: format!("cannot be read: {error}"),
        fix: "write the secret into that file, readable for the user that runs the engine".into(),
    };
    let mut file = File::open(path).map_err(unreadable)?;
    if let Some(mode) = mode_open_to_others(&file).map_err(unreadable)? {
        return Err(Unreadable {
            problem: format!("every user of this machine may open it (mode {mode:03o})"),
            fix: format!("run: chmod 600 {}", path.display()),
        });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The group may read: that is how service managers hand credentials over.
#[cfg(unix)]
fn mode_open_to_others(file: &File) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata()?.permissions().mode() & 0o777;
    Ok((mode & 0o007 != 0).then_some(mode))
}

#[cfg(not(unix))]
fn mode_open_to_others(_file: &File) -> io::Result<Option<u32>> {
    Ok(None)
}
