//! Who may connect to the built-in listener: users, their argon2 hashes, and a short cut for those
//! who were verified before.
//!
//! 1. Config names users with a PHC hash and topic filters; it is checked when it is read.
//! 2. The first CONNECT of a user costs one argon2 verification (tens of milliseconds, on purpose);
//!    unknown names cost the same, so that names cannot be probed by timing.
//! 3. After a success the listener remembers a cheap digest of the password under a random key that
//!    lives and dies with the process: ten thousand nodes that come back after a network outage
//!    would otherwise wait minutes for their turn.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{
    PasswordHash, PasswordHashString, PasswordHasher, PasswordVerifier, SaltString,
};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize, Serializer};

use super::acl::Filter;
use crate::config::Invalid;

/// What takes the place of a secret wherever a config is printed.
const HIDDEN: &str = "<hidden>";

/// One user of the built-in listener.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User name as the node sends it; 1 to 128 characters, none of `/ + #` and no control
    /// characters (it is put in place of `%u` in topic filters).
    pub name: String,
    /// Argon2 hash of the password in PHC form (`$argon2id$v=19$…`). Never printed.
    #[serde(serialize_with = "hidden")]
    pub password_hash: String,
    /// Topic filters (`+`, `#`, `%u` = the user's name) that the user may publish to. A publish
    /// elsewhere is answered "not authorized" (MQTT 5) or acknowledged (MQTT 3.1.1 has no word for
    /// it), counted, and goes nowhere.
    #[serde(default = "own_topics")]
    pub publish: Vec<String>,
}

fn own_topics() -> Vec<String> {
    vec!["sensors/%u/#".to_owned()]
}

// The signature is serde's.
#[allow(
    clippy::ptr_arg,
    reason = "serde passes a reference to the field as it is"
)]
fn hidden<S: Serializer>(_hash: &String, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(HIDDEN)
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("password_hash", &HIDDEN)
            .field("publish", &self.publish)
            .finish()
    }
}

/// A password could not be hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot hash the password: {0}")]
pub struct HashError(String);

/// Hashes a password for [`User::password_hash`], with a salt of its own.
///
/// # Errors
/// If the password is empty or too long for argon2.
pub fn hash_password(password: &str) -> Result<String, HashError> {
    if password.is_empty() {
        return Err(HashError("it is empty".into()));
    }
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| HashError(error.to_string()))
}

/// A user who has connected: what it may publish.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    filters: Vec<Filter>,
    hash: PasswordHashString,
    remembered: Mutex<Option<[u8; 32]>>,
}

impl Account {
    fn new(user: &User) -> Result<Self, Invalid> {
        let name_works = (1..=128).contains(&user.name.chars().count())
            && !user.name.contains(['/', '+', '#'])
            && !user.name.contains(char::is_control);
        if !name_works {
            return Err(Invalid::new(
                "users.name",
                format_args!("{:?}", user.name),
                "not a user name",
                "use 1 to 128 characters without / + # and control characters",
            ));
        }
        let hash = PasswordHash::new(&user.password_hash)
            .ok()
            .filter(|hash| Algorithm::try_from(hash.algorithm).is_ok() && hash.hash.is_some())
            .map(|hash| hash.serialize())
            .ok_or_else(|| {
                Invalid::new(
                    &format!("users.{}.password_hash", user.name),
                    HIDDEN,
                    "not an argon2 hash in PHC form",
                    "hash the password with the engine's own command; it begins with $argon2id$",
                )
            })?;
        let mut filters = Vec::with_capacity(user.publish.len());
        for filter in &user.publish {
            filters.push(Filter::new(filter, &user.name).map_err(|problem| {
                Invalid::new(
                    &format!("users.{}.publish", user.name),
                    format_args!("{filter:?}"),
                    problem,
                    "write a topic filter such as sensors/%u/#",
                )
            })?);
        }
        Ok(Self {
            name: user.name.clone(),
            filters,
            hash,
            remembered: Mutex::new(None),
        })
    }

    /// True if one of the user's filters covers the topic.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| filter.allows(topic))
    }

    fn remembered(&self) -> Option<[u8; 32]> {
        *self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// All users.
#[derive(Debug)]
pub(crate) struct Accounts {
    by_name: HashMap<String, Arc<Account>>,
    /// Verified in place of a user that does not exist.
    stand_in: Option<PasswordHashString>,
    /// Key of the digests that are remembered; never leaves the process.
    key: [u8; 16],
}

impl Accounts {
    /// Checks every user.
    ///
    /// # Errors
    /// [`Invalid`] names the user and the fix, never a hash.
    pub(crate) fn new(users: &[User]) -> Result<Self, Invalid> {
        let mut by_name = HashMap::with_capacity(users.len());
        for user in users {
            let account = Arc::new(Account::new(user)?);
            if by_name.insert(user.name.clone(), account).is_some() {
                return Err(Invalid::new(
                    "users.name",
                    format_args!("{:?}", user.name),
                    "two users have this name",
                    "keep one of them",
                ));
            }
        }
        let stand_in = users
            .first()
            .and_then(|user| by_name.get(&user.name))
            .map(|account| account.hash.clone());
        let mut key = [0; 16];
        OsRng.fill_bytes(&mut key);
        Ok(Self {
            by_name,
            stand_in,
            key,
        })
    }

    /// True if nobody is configured, hence everybody may connect.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The account, if this password was verified before in the life of the process. Costs some
    /// ten microseconds; says nothing about passwords that are wrong or new.
    pub(crate) fn recall(&self, name: &str, password: &[u8]) -> Option<Arc<Account>> {
        let account = self.by_name.get(name)?;
        let remembered = account.remembered()?;
        (self.digest(password)? == remembered).then(|| Arc::clone(account))
    }

    /// The account, if the password is right. Takes tens of milliseconds either way: never on an
    /// async thread.
    pub(crate) fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<Account>> {
        let account = self.by_name.get(name);
        let hash = account
            .map(|account| &account.hash)
            .or(self.stand_in.as_ref())?;
        let right = Argon2::default()
            .verify_password(password, &hash.password_hash())
            .is_ok();
        let account = account.filter(|_| right)?;
        *account
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.digest(password);
        Some(Arc::clone(account))
    }

    /// Argon2 at its smallest: no defence against guessing, but a keyed one-way function is all
    /// that is wanted of it here.
    fn digest(&self, password: &[u8]) -> Option<[u8; 32]> {
        let params = Params::new(Params::MIN_M_COST, 1, 1, Some(32)).ok()?;
        let mut digest = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &self.key, &mut digest)
            .ok()?;
        Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User {
            name: name.into(),
            password_hash: hash_password("secret").unwrap(),
            publish: own_topics(),
        }
    }

    #[test]
    fn passwords_are_verified_then_recalled() {
        let accounts = Accounts::new(&[user("C001"), user("C002")]).unwrap();
        assert!(
            accounts.recall("C001", b"secret").is_none(),
            "not verified yet"
        );
        assert!(accounts.verify("C001", b"wrong").is_none());
        assert!(accounts.recall("C001", b"wrong").is_none());
        assert!(
            accounts.verify("nobody", b"secret").is_none(),
            "the stand-in lets nobody in"
        );
        assert_eq!(accounts.verify("C001", b"secret").unwrap().name, "C001");
        assert!(accounts.recall("C001", b"secret").is_some());
        assert!(accounts.recall("C001", b"wrong").is_none());
        assert!(accounts.recall("C002", b"secret").is_none());
    }

    #[test]
    fn hashes_are_never_printed() {
        let user = user("C001");
        assert!(!format!("{user:?}").contains("argon2"));
        assert!(!serde_json::to_string(&user).unwrap().contains("argon2"));
    }

    #[test]
    fn wrong_users_are_named() {
        let mut plain = user("C001");
        plain.password_hash = "secret".into();
        let error = Accounts::new(&[plain]).unwrap_err().to_string();
        assert!(
            error.contains("C001") && !error.contains("secret"),
            "{error}"
        );
        assert!(Accounts::new(&[user("a/b")]).is_err());
        assert!(Accounts::new(&[user("a"), user("a")]).is_err());
        let mut filter = user("C001");
        filter.publish = vec!["a#".into()];
        assert!(Accounts::new(&[filter]).is_err());
        assert!(hash_password("").is_err());
    }
}
