//! Which topics a user may publish to: MQTT topic filters, in three steps.
//!
//! 1. `%u` becomes the user's name (names hold no wildcard and no `/`, see `auth`);
//! 2. the filter is checked once, when the config is read;
//! 3. each publish is compared level by level.

/// A topic filter of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter(String);

impl Filter {
    /// Puts `user` in place of `%u`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the filter.
    pub(crate) fn new(filter: &str, user: &str) -> Result<Self, &'static str> {
        let filter = filter.replace("%u", user);
        if filter.is_empty() {
            return Err("a topic filter cannot be empty");
        }
        if filter.len() > usize::from(u16::MAX) || filter.contains('\0') {
            return Err("longer than a topic can be, or holds a NUL character");
        }
        let levels = filter.split('/').count();
        for (at, level) in filter.split('/').enumerate() {
            if level.contains('#') && (level != "#" || at + 1 != levels) {
                return Err("# must be the whole last level, as in sensors/#");
            }
            if level.contains('+') && level != "+" {
                return Err("+ must be a whole level, as in sensors/+/reading");
            }
        }
        Ok(Self(filter))
    }

    /// True if the filter covers the topic. As with subscriptions, a wildcard in the first level
    /// does not reach topics that begin with `$`.
    pub(crate) fn allows(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['#', '+']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.0.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// True for `sensors/<id>/status`, where nodes say `online` and `offline`.
pub(crate) fn is_status(topic: &str) -> bool {
    topic
        .strip_prefix("sensors/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(id, leaf)| !id.is_empty() && leaf == "status")
}

/// True if a client may publish to it at all: no wildcards, no NUL, not empty.
pub(crate) fn is_topic_name(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['#', '+', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(filter: &str, topic: &str) -> bool {
        Filter::new(filter, "C001").unwrap().allows(topic)
    }

    #[test]
    fn filters_cover_what_mqtt_says() {
        assert!(allows("sensors/%u/#", "sensors/C001/reading"));
        assert!(allows("sensors/%u/#", "sensors/C001"));
        assert!(allows("sensors/%u/#", "sensors/C001/a/b"));
        assert!(!allows("sensors/%u/#", "sensors/C0011/reading"));
        assert!(!allows("sensors/%u/#", "sensors/C002/reading"));
        assert!(!allows("sensors/%u/#", "sensors"));
        assert!(allows("sensors/+/reading", "sensors/x/reading"));
        assert!(!allows("sensors/+/reading", "sensors/x/y/reading"));
        assert!(!allows("sensors/+", "sensors"));
        assert!(allows("+/+", "/x"));
        assert!(allows("#", "a/b"));
        assert!(!allows("#", "$SYS/x"));
        assert!(!allows("+/x", "$SYS/x"));
        assert!(allows("$SYS/#", "$SYS/x"));
        assert!(!allows("a", "a/"));
    }

    #[test]
    fn wrong_filters_are_refused() {
        for bad in ["", "a/#/b", "a#", "a/b+", "++", "a\0"] {
            assert!(Filter::new(bad, "u").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn status_topics() {
        assert!(is_status("sensors/C001/status"));
        for other in [
            "sensors//status",
            "sensors/status",
            "sensors/a/b/status",
            "x/C001/status",
        ] {
            assert!(!is_status(other), "{other}");
        }
    }
}
