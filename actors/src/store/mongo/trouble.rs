//! What an error of the driver means for the rows that were sent: they are there, they will never
//! be, or nobody knows. What nobody knows is sent again.

use mongodb::bson::Document;
use mongodb::error::{Error, ErrorKind, IndexedWriteError};

/// What keeps MongoDB from taking rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A connection broke; the next one may hold.
    Broken,
    /// No server answers.
    Unreachable,
    /// The server cannot show that it is the one that is meant.
    Certificate,
    /// User or password are wrong, or the user may not do this.
    Denied,
    /// The cluster's room is used up.
    Full,
    /// Somebody else's documents are where the copy would be.
    Foreign,
    /// Anything else.
    Other,
}

impl Why {
    /// All of them, for metrics.
    pub const ALL: [Self; 7] = [
        Self::Broken,
        Self::Unreachable,
        Self::Certificate,
        Self::Denied,
        Self::Full,
        Self::Foreign,
        Self::Other,
    ];

    /// It is between here and there; nothing was wrong with what was asked.
    pub(crate) const fn is_connection(self) -> bool {
        matches!(self, Self::Broken | Self::Unreachable | Self::Certificate)
    }

    /// As a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Foreign => "foreign",
            Self::Other => "other",
        }
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Broken | Self::Unreachable => {
                "is the server up, and does it let this machine in (Atlas: Network Access)? \
                 Everything waits in the store until it answers"
            }
            Self::Certificate => {
                "the certificate of the server is not trusted: for a CA of your own write \
                 tls=true&tlsCAFile=/path/to/ca.pem in mongodb.uri, and name the server as its \
                 certificate does"
            }
            Self::Denied => {
                "check user and password in mongodb.uri, and that the user has the role readWrite \
                 on the database (Atlas: Database Access)"
            }
            Self::Full => {
                "the cluster is full: lower mongodb.max_mib or mongodb.keep, remove other data, or \
                 take a larger cluster. Everything waits in the store"
            }
            Self::Foreign => {
                "set mongodb.database to one that the engine has for itself: old readings are \
                 removed from it. `engine import mongo` reads what is there"
            }
            Self::Other => "everything waits in the store and is sent again",
        }
    }
}

/// Rows that were sent may be there or not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Trouble {
    /// What for the caller to do.
    pub why: Why,
    /// The driver's words.
    pub words: String,
}

/// Codes of commands and documents that are wrong in themselves: sending them again is no use.
const WRONG: [i32; 10] = [
    2,     // BadValue
    9,     // FailedToParse
    14,    // TypeMismatch
    22,    // InvalidBSON
    52,    // DollarPrefixedFieldName
    56,    // EmptyFieldName
    57,    // DottedFieldName
    121,   // DocumentValidationFailure
    10334, // BSONObjectTooLarge
    17419, // BSONObjectTooLarge, of a document that grew
];
const DUPLICATE_KEY: i32 = 11000;
/// `AtlasError`, "you are over your space quota"; `OutOfDiskSpace`.
const FULL: [i32; 2] = [8000, 14031];
/// `Unauthorized`, `AuthenticationFailed`.
const DENIED: [i32; 2] = [13, 18];

impl Trouble {
    pub(super) fn new(why: Why, words: impl Into<String>) -> Self {
        Self {
            why,
            words: words.into(),
        }
    }

    /// There is no client.
    pub(crate) fn lost() -> Self {
        Self::new(Why::Unreachable, "not connected")
    }

    fn of_code(code: i32, words: String) -> Self {
        let why = match code {
            code if FULL.contains(&code) => Why::Full,
            code if DENIED.contains(&code) => Why::Denied,
            _ => Why::Other,
        };
        Self { why, words }
    }

    pub(super) fn of(error: &Error) -> Self {
        let words = error.kind.to_string();
        match error.kind.as_ref() {
            // In the words of rustls, which come by many ways.
            ErrorKind::Io(_)
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
                if words.contains("invalid peer certificate") =>
            {
                Self::new(Why::Certificate, words)
            }
            ErrorKind::Command(command) => Self::of_code(command.code, words),
            ErrorKind::Authentication { .. } => Self::new(Why::Denied, words),
            ErrorKind::Io(_) => Self::new(Why::Broken, words),
            ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. } => Self::new(Why::Unreachable, words),
            ErrorKind::Custom(_) => match error.get_custom::<String>() {
                Some(words) => Self::new(Why::Unreachable, words.as_str()),
                None => Self::new(Why::Other, words),
            },
            _ => Self::new(Why::Other, words),
        }
    }
}

/// The server answered, with a no.
pub(super) fn is_command(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command)
        if !DENIED.contains(&command.code) && !FULL.contains(&command.code))
}

/// What became of documents that were inserted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All are there.
    All,
    /// All but these, which never will be.
    Except(Vec<(usize, String)>),
    /// The command was wrong in itself, because of one of its documents.
    Nothing(String),
}

/// Reads the answer to an unordered insert.
///
/// # Errors
/// [`Trouble`]: nobody knows.
pub(super) fn written(answer: Result<(), Error>) -> Result<Written, Trouble> {
    let Err(error) = answer else {
        return Ok(Written::All);
    };
    match error.kind.as_ref() {
        ErrorKind::InsertMany(many) => {
            if let Some(concern) = &many.write_concern_error {
                let words = format!("{} (code {})", concern.message, concern.code);
                return Err(Trouble::of_code(concern.code, words));
            }
            let errors = many.write_errors.as_deref().unwrap_or_default();
            refused(errors).map(|refused| {
                if refused.is_empty() {
                    Written::All
                } else {
                    Written::Except(refused)
                }
            })
        }
        ErrorKind::Command(command) if WRONG.contains(&command.code) => {
            Ok(Written::Nothing(error.kind.to_string()))
        }
        ErrorKind::InvalidArgument { .. } | ErrorKind::Bson(_) => {
            Ok(Written::Nothing(error.kind.to_string()))
        }
        _ => Err(Trouble::of(&error)),
    }
}

/// Documents that will never be taken; a duplicate key means that the document is there.
fn refused(errors: &[IndexedWriteError]) -> Result<Vec<(usize, String)>, Trouble> {
    let mut refused = Vec::new();
    for error in errors {
        let words = format!("{} (code {})", error.message, error.code);
        if WRONG.contains(&error.code) {
            refused.push((error.index, words));
        } else if error.code != DUPLICATE_KEY {
            return Err(Trouble::of_code(error.code, words));
        }
    }
    Ok(refused)
}

/// Reads the answer to an unordered update: documents that will never be taken.
///
/// # Errors
/// [`Trouble`]: nobody knows.
pub(super) fn updated(answer: Result<Document, Error>) -> Result<Vec<(usize, String)>, Trouble> {
    let answer = answer.map_err(|error| Trouble::of(&error))?;
    if let Ok(concern) = answer.get_document("writeConcernError") {
        return Err(Trouble::new(Why::Other, concern.to_string()));
    }
    let Ok(errors) = answer.get_array("writeErrors") else {
        return Ok(Vec::new());
    };
    let errors: Vec<IndexedWriteError> = errors
        .iter()
        .filter_map(|error| mongodb::bson::deserialize_from_bson(error.clone()).ok())
        .collect();
    refused(&errors)
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn write_error(index: usize, code: i32) -> Document {
        doc! { "index": i32::try_from(index).unwrap(), "code": code, "errmsg": "words" }
    }

    #[test]
    fn duplicates_are_there_wrong_ones_never_will_be_and_the_rest_is_sent_again() {
        let answer = |errors: Vec<Document>| updated(Ok(doc! { "ok": 1, "writeErrors": errors }));
        assert_eq!(answer(vec![write_error(3, 11000)]), Ok(vec![]));
        let both = vec![write_error(3, 11000), write_error(7, 121)];
        assert_eq!(answer(both), Ok(vec![(7, "words (code 121)".to_owned())]));
        // One document that nobody knows about: all are sent again.
        let unsure = vec![write_error(7, 121), write_error(8, 8000)];
        assert_eq!(answer(unsure).unwrap_err().why, Why::Full);
        assert_eq!(
            answer(vec![write_error(0, 91)]).unwrap_err().why,
            Why::Other
        );
        assert_eq!(
            answer(vec![write_error(0, 13)]).unwrap_err().why,
            Why::Denied
        );
        let concern = doc! { "ok": 1, "writeConcernError": { "code": 64 } };
        assert_eq!(updated(Ok(concern)).unwrap_err().why, Why::Other);
        assert_eq!(written(Ok(())), Ok(Written::All));
        let lost = Error::custom("no answer".to_owned());
        assert_eq!(written(Err(lost)).unwrap_err().why, Why::Unreachable);
    }
}
