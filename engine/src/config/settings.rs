//! Settings: values by path, each with its origin, and what becomes of them when layers are put on
//! top of each other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::{Table, Value};

use super::layers::PREFIX;
use super::schema::{ANY, Path, dotted};

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody.
    Default,
    /// The config file.
    File {
        /// As given.
        path: PathBuf,
        /// Of the key, from 1.
        line: usize,
    },
    /// A `.env` file.
    DotEnv {
        /// As given.
        path: PathBuf,
        /// Of the variable.
        name: String,
    },
    /// The environment variable of this name.
    Env(String),
    /// The flag of this name.
    Flag(&'static str),
    /// The file that a `*_file` key names.
    Secret {
        /// As given.
        path: PathBuf,
    },
}

impl Origin {
    /// Stronger layers have higher ranks.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::DotEnv { .. } => 2,
            Self::Env(_) => 3,
            Self::Flag(_) | Self::Secret { .. } => 4,
        }
    }

    /// How `key` is spelt in this layer.
    pub(super) fn spelling(&self, key: &str) -> String {
        match self {
            Self::Env(_) | Self::DotEnv { .. } => {
                format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
            }
            _ => key.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::DotEnv { path, name } => write!(f, "{} {name}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
            Self::Secret { path } => write!(f, "{}", path.display()),
        }
    }
}

/// Where the values of a config come from, by dotted key.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Of one key; what nobody set is a default.
    pub(crate) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// A value and who set it.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Settings by path. Lists are whole values; so is a section without any key.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<Path, Setting>);

impl Settings {
    /// Puts a layer over what is there.
    pub(super) fn put_all(&mut self, layer: Vec<(Path, Setting)>) {
        for (path, setting) in layer {
            self.put(path, setting);
        }
    }

    /// Puts one setting over what is there: what was below it goes, and so does what it is below.
    pub(super) fn put(&mut self, path: Path, setting: Setting) {
        let is_empty = setting.value.as_table().is_some_and(Table::is_empty);
        if is_empty && self.0.keys().any(|other| other.starts_with(&path)) {
            return;
        }
        self.0
            .retain(|other, _| !other.starts_with(&path) && !path.starts_with(other));
        self.0.insert(path, setting);
    }

    /// The setting at exactly this path.
    pub(super) fn get(&self, path: &Path) -> Option<&Setting> {
        self.0.get(path)
    }

    /// The paths of settings that fit one in which [`ANY`] stands for names.
    pub(super) fn matching(&self, pattern: &Path) -> Vec<Path> {
        let fits = |path: &&Path| {
            let pairs = path.iter().zip(pattern);
            let mut pairs = pairs.map(|(name, wanted)| wanted == ANY || name == wanted);
            path.len() == pattern.len() && pairs.all(|fits| fits)
        };
        self.0.keys().filter(fits).cloned().collect()
    }

    /// Removes the setting at exactly this path.
    pub(super) fn remove(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// Removes what is at this path and below.
    pub(super) fn remove_all(&mut self, prefix: &[String]) {
        self.0.retain(|path, _| !path.starts_with(prefix));
    }

    /// In order of path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &Setting)> {
        self.0.iter()
    }

    /// As one table, with the origins apart.
    pub(super) fn into_tree(self) -> (Table, Origins) {
        let mut tree = Table::new();
        let mut origins = Origins::default();
        for (path, Setting { value, origin }) in self.0 {
            note(&path, &value, &origin, &mut origins);
            let Some((name, sections)) = path.split_last() else {
                continue;
            };
            let section = sections.iter().try_fold(&mut tree, |table, section| {
                table
                    .entry(section.clone())
                    .or_insert_with(|| Value::Table(Table::new()))
                    .as_table_mut()
            });
            if let Some(section) = section {
                section.insert(name.clone(), value);
            }
        }
        (tree, origins)
    }
}

/// Keys inside of lists come from where the list comes from.
fn note(path: &[String], value: &Value, origin: &Origin, origins: &mut Origins) {
    origins.0.insert(dotted(path), origin.clone());
    let Value::Array(list) = value else { return };
    for (index, element) in list.iter().enumerate() {
        for name in element.as_table().into_iter().flat_map(Table::keys) {
            let path = [path, &[index.to_string(), name.clone()]].concat();
            origins.0.insert(dotted(&path), origin.clone());
        }
    }
}
