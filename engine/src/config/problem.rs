//! What can be wrong with a config, in words that name the place, the key, the value (never a
//! secret's) and the fix.

use std::fmt;
use std::path::PathBuf;

use vigie_actors::config::Invalid;

use super::settings::Origin;

/// One thing that is wrong.
#[derive(Debug)]
pub(super) enum Problem {
    /// A file cannot be read at all.
    File {
        path: PathBuf,
        problem: String,
        fix: String,
    },
    /// A file is not what it should be written in.
    Syntax {
        path: PathBuf,
        line: usize,
        column: usize,
        problem: String,
    },
    /// There is no such key. Its value is not told: it may be a secret under a misspelt name.
    Unknown {
        key: String,
        nearest: Option<String>,
        origin: Origin,
    },
    /// The value cannot work.
    Invalid { invalid: Invalid, origin: Origin },
    /// The settings fit one by one, but not together.
    Whole,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, problem, fix } => write!(f, "{}: {problem}; {fix}", path.display()),
            Self::Syntax {
                path,
                line,
                column,
                problem,
            } => {
                write!(f, "{}:{line}:{column}: {problem}", path.display())
            }
            Self::Unknown {
                key,
                nearest,
                origin,
            } => {
                write!(f, "{origin}: unknown key {key}; ")?;
                match nearest {
                    Some(nearest) => write!(f, "did you mean {}?", origin.spelling(nearest)),
                    None => write!(f, "remove it; config/full.toml has all keys"),
                }
            }
            // A default that does not go with something else: its origin helps nobody.
            Self::Invalid {
                invalid,
                origin: Origin::Default,
            } => write!(f, "{invalid}"),
            Self::Invalid { invalid, origin } => write!(f, "{origin}: {invalid}"),
            Self::Whole => write!(
                f,
                "the config does not fit together; compare it with full.toml"
            ),
        }
    }
}

/// Everything that is wrong with a config.
#[derive(Debug)]
pub(crate) struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// At least one problem.
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error needs a reason");
        Self { problems }
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.problems.as_slice() {
            return write!(f, "{problem}");
        }
        write!(f, "{} problems in the config", self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
