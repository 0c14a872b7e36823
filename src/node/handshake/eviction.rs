//! Whether a server may drop keys before their time, by its `INFO memory`.

use redis::{RedisResult, Value};

use super::identity::{field, info_text};

/// How a server drops keys when its memory is full. All keys of this crate have a ttl, so every policy that drops keys
/// may drop them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Eviction {
    pub(in crate::node) policy: String,
    /// From how many bytes on.
    pub(in crate::node) maxmemory: u64,
}

impl Eviction {
    /// Reads the section *memory*. A missing value is no reason to refuse a node or to warn: a proxy may not know the
    /// section, and a connection to several servers answers for all of them at once.
    pub(super) fn of(memory: RedisResult<Value>) -> Option<Self> {
        let memory = info_text(&memory.ok()?).ok()?;
        let policy = field(&memory, "maxmemory_policy").filter(|policy| is_policy(policy))?;
        let maxmemory = field(&memory, "maxmemory")?.parse().ok()?;
        // Without a limit, which is a server's default, the memory is never full, whatever the policy.
        (policy != "noeviction" && maxmemory > 0).then(|| Self {
            policy: policy.to_owned(),
            maxmemory,
        })
    }
}

/// Whether `text` looks like the name of a policy. It goes to the log, so nothing else of a server may be in it.
fn is_policy(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(maxmemory: &str, policy: &str) -> Option<Eviction> {
        let memory = format!(
            "# Memory\r\nused_memory:1\r\nmaxmemory:{maxmemory}\r\nmaxmemory_human:0B\r\n\
             maxmemory_policy:{policy}\r\n"
        );
        Eviction::of(Ok(Value::BulkString(memory.into_bytes())))
    }

    #[test]
    fn every_policy_but_one_drops_keys_with_a_ttl() {
        for policy in [
            "allkeys-lru",
            "allkeys-random",
            "volatile-lfu",
            "volatile-ttl",
        ] {
            let eviction = found("1000", policy).expect(policy);
            assert_eq!((&*eviction.policy, eviction.maxmemory), (policy, 1000));
        }
        assert_eq!(found("1000", "noeviction"), None);
    }

    #[test]
    fn without_a_limit_nothing_is_dropped() {
        assert_eq!(found("0", "allkeys-lru"), None);
    }

    #[test]
    fn what_is_not_said_properly_is_not_repeated() {
        for (maxmemory, policy) in [("", "allkeys-lru"), ("1000", ""), ("1000", "a\u{1b}[2J")] {
            assert_eq!(found(maxmemory, policy), None, "{maxmemory} {policy}");
        }
        assert_eq!(found("1000", &"a".repeat(33)), None);
        assert_eq!(Eviction::of(Ok(Value::Map(vec![]))), None);
        assert_eq!(Eviction::of(Ok(Value::BulkString(vec![]))), None);
    }
}
