//! What a caller asks to lock: a name, with the keys it has on every node, and a ttl.
//!
//! All keys of a resource must hash to one cluster slot, and no name may collide with a derived key of another resource.
//! The constructor refuses names that break this.

use std::time::Duration;

use crate::error::ArgumentError;

/// The longest name of a resource, in bytes, prefix included: 16 KiB.
pub(crate) const MAX_NAME: usize = 16 * 1024;

const SUFFIXES: [&str; 3] = [
    ":redlock-fifo:queue",
    ":redlock-fifo:waiters",
    ":redlock-fifo:seq",
];

/// The longest ttl: about 68 years, far below what overflows a server's clock in milliseconds.
pub(crate) const MAX_TTL: Duration = Duration::from_millis(1 << 41);

/// The shortest ttl and waiter ttl: three round trips and the drift must fit in.
pub(crate) const MIN_TTL: Duration = Duration::from_millis(20);

/// A valid ttl of a lease, in whole milliseconds as the nodes count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(Duration);

impl Ttl {
    /// `ttl` rounded down to whole milliseconds.
    pub(crate) fn new(ttl: Duration) -> Result<Self, ArgumentError> {
        if ttl > MAX_TTL {
            return Err(ArgumentError::TtlTooLong { most: MAX_TTL });
        }
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let ttl = Duration::from_millis(millis);
        if ttl < MIN_TTL {
            return Err(ArgumentError::TtlTooShort {
                ttl,
                least: MIN_TTL,
            });
        }
        Ok(Self(ttl))
    }

    pub(crate) fn get(self) -> Duration {
        self.0
    }
}

/// A valid name and its four keys. They share one string, since each request has its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    /// The keys, one after the other.
    keys: Box<str>,
    /// Where each key ends.
    ends: [usize; 4],
    /// Where the name starts in the first of them.
    name: usize,
}

impl Resource {
    /// `name` as the user gave it; the keys carry `prefix`.
    pub(crate) fn new(prefix: &str, name: &str) -> Result<Self, ArgumentError> {
        if name.is_empty() {
            return Err(ArgumentError::EmptyResource);
        }
        let length = prefix.len() + name.len();
        if length > MAX_NAME {
            return Err(ArgumentError::ResourceTooLong {
                length,
                most: MAX_NAME,
            });
        }
        let suffixes: usize = SUFFIXES.iter().map(|suffix| suffix.len()).sum();
        let mut keys = String::with_capacity(4 * length + 2 * SUFFIXES.len() + suffixes);
        keys.push_str(prefix);
        keys.push_str(name);
        let (open, close) = match tag(&keys) {
            // Its queue would be that of the name without braces, whose votes would go to those who wait for it.
            Some(tag) if tag.len() + 2 == length => return Err(ArgumentError::ResourceBraced),
            Some(_) => ("", ""),
            None if keys.contains(['{', '}']) => return Err(ArgumentError::ResourceBraces),
            None => ("{", "}"),
        };
        if SUFFIXES.iter().any(|suffix| keys.ends_with(suffix)) {
            return Err(ArgumentError::ResourceReserved);
        }
        let mut ends = [length; 4];
        for (end, suffix) in ends[1..].iter_mut().zip(SUFFIXES) {
            keys.push_str(open);
            keys.extend_from_within(..length);
            keys.push_str(close);
            keys.push_str(suffix);
            *end = keys.len();
        }
        Ok(Self {
            keys: keys.into(),
            ends,
            name: prefix.len(),
        })
    }

    /// The name as the user gave it.
    pub(crate) fn name(&self) -> &str {
        &self.lock_key()[self.name..]
    }

    /// Lock key, queue, waiters, seq: the order in which the scripts take them.
    pub(crate) fn keys(&self) -> [&str; 4] {
        let [lock, queue, waiters, seq] = self.ends;
        [0..lock, lock..queue, queue..waiters, waiters..seq].map(|key| &self.keys[key])
    }

    /// The key that is the lock.
    pub(crate) fn lock_key(&self) -> &str {
        let [lock, ..] = self.keys();
        lock
    }
}

/// The hash tag of a key as Redis Cluster reads it: what stands between the first `{` and the first `}`
/// after it, unless that is nothing.
fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Whether keys that start with `prefix` have a hash tag by that.
pub(crate) fn has_tag(prefix: &str) -> bool {
    tag(prefix).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assume, proptest};

    use super::*;

    #[test]
    fn a_ttl_must_leave_time_for_answers_and_be_below_the_servers_clock() {
        assert!(Ttl::new(Duration::from_millis(20)).is_ok());
        for short in [Duration::ZERO, Duration::from_micros(19_999)] {
            assert!(matches!(
                Ttl::new(short),
                Err(ArgumentError::TtlTooShort { .. })
            ));
        }
        assert!(matches!(
            Ttl::new(Duration::MAX),
            Err(ArgumentError::TtlTooLong { .. })
        ));
    }

    #[test]
    fn derived_keys_share_the_slot_of_the_name() {
        let plain = Resource::new("", "invoice:42").expect("valid");
        assert_eq!(plain.lock_key(), "invoice:42");
        assert!(
            plain.keys()[1..]
                .iter()
                .all(|key| tag(key) == Some("invoice:42"))
        );

        let tagged = Resource::new("app:", "{tenant}:a").expect("valid");
        assert_eq!(tagged.lock_key(), "app:{tenant}:a");
        assert!(
            tagged.keys()[1..]
                .iter()
                .all(|key| tag(key) == Some("tenant"))
        );
        assert_eq!(tagged.keys()[3], "app:{tenant}:a:redlock-fifo:seq");
    }

    proptest! {
        // Passing on the vote of one resource would give it to those who wait for the other.
        #[test]
        fn s1_no_two_resources_share_a_key(
            one in "[{}ab]{1,4}(:redlock-fifo:(queue|waiters|seq))?",
            other in "[{}ab]{1,4}(:redlock-fifo:(queue|waiters|seq))?",
        ) {
            for other in [other, format!("{{{one}}}"), format!("{one}:redlock-fifo:seq")] {
                prop_assume!(one != other);
                if let (Ok(one), Ok(other)) = (Resource::new("", &one), Resource::new("", &other)) {
                    prop_assert!(one.keys().iter().all(|key| !other.keys().contains(key)));
                }
            }
        }
    }

    #[test]
    fn names_that_would_leave_their_slot_or_collide_are_refused() {
        let refused = |name: &str| Resource::new("", name).expect_err(name);
        assert!(matches!(refused(""), ArgumentError::EmptyResource));
        for name in ["a{b", "a}b", "a{}b", "}{"] {
            assert!(
                matches!(refused(name), ArgumentError::ResourceBraces),
                "{name}"
            );
        }
        assert!(matches!(refused("{a}"), ArgumentError::ResourceBraced));
        let prefixed = Resource::new("{a", "}");
        assert!(matches!(prefixed, Err(ArgumentError::ResourceBraced)));
        assert!(Resource::new("", "{a}b").is_ok() && Resource::new("b", "{a}").is_ok());
        assert!(matches!(
            refused("{a}:redlock-fifo:queue"),
            ArgumentError::ResourceReserved
        ));
        assert!(matches!(
            refused(&"x".repeat(MAX_NAME + 1)),
            ArgumentError::ResourceTooLong { .. }
        ));
        assert!(Resource::new("", &"x".repeat(MAX_NAME)).is_ok());
        assert!(Resource::new("", "a__5").is_ok());
    }
}
