//! Who a server says it is, by its `INFO`.

use std::time::Duration;

use redis::{RedisResult, Value};

use crate::{
    error::{NodeError, WrongServer},
    node::fault,
    time::Time,
};

/// The lowest version that will do.
const OLDEST: (u32, u32) = (6, 2);

/// What `INFO` says of a server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Names this run of the server; `None` if the connection may lead to several.
    pub(super) run_id: Option<String>,
    uptime: Uptime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Uptime {
    /// The wall clock was set back to before its start.
    Negative,
    Seconds(u64),
    /// The server does not say: it counts as having just started.
    Unsaid,
    /// The connection may lead to several servers: they count as never restarted. A user who provides such a connection
    /// does without S5.
    #[default]
    Several,
}

impl Identity {
    /// Reads the sections *server* and *replication*, and refuses what can never be a node.
    pub(super) fn of(
        server: RedisResult<Value>,
        replication: RedisResult<Value>,
        handed: bool,
    ) -> Result<Self, NodeError> {
        let replies = [&server, &replication];
        // That a user may not ask is no sign of several servers. Without the answer S5 would be off, and nobody would
        // know.
        if replies
            .into_iter()
            .flat_map(|reply| reply.as_ref().err())
            .any(fault::is_forbidden)
        {
            return Err(fault::lacking("info"));
        }
        if handed && !replies.into_iter().all(is_info) {
            return Ok(Self::default());
        }
        let server = info_text(&readable(server, handed)?)?;
        let replication = info_text(&readable(replication, handed)?)?;
        let server = |key| field(&server, key);
        let version = server("redis_version").ok_or(WrongServer::NotRedis)?;
        let valkey = server("valkey_version").is_some() || server("server_name") == Some("valkey");
        if !valkey && parse_version(version).is_none_or(|version| version < OLDEST) {
            let version = Some(version)
                .filter(|version| is_version(version))
                .unwrap_or("unknown");
            return Err(too_old(version));
        }
        match server("redis_mode") {
            Some("cluster") if !handed => return Err(WrongServer::ClusterNode.into()),
            // It speaks the protocol but keeps no keys.
            Some("sentinel") => return Err(WrongServer::NotRedis.into()),
            _ => {}
        }
        if matches!(field(&replication, "role"), Some("slave" | "replica")) {
            return Err(WrongServer::Replica.into());
        }
        let uptime = server("uptime_in_seconds").and_then(|uptime| uptime.parse::<i64>().ok());
        let uptime =
            uptime.map(|uptime| u64::try_from(uptime).map_or(Uptime::Negative, Uptime::Seconds));
        Ok(Self {
            run_id: server("run_id").map(str::to_owned),
            uptime: uptime.unwrap_or(Uptime::Unsaid),
        })
    }

    /// When the server started, and never earlier than it really did: its uptime counts whole seconds of the wall clock,
    /// and the answer was given somewhere within a second.
    pub(super) fn up_since(&self, received: Time, into: Duration) -> Time {
        match self.uptime {
            Uptime::Seconds(seconds) => {
                let up = Duration::from_secs(seconds) + into;
                received.minus(up.saturating_sub(SECOND))
            }
            Uptime::Unsaid | Uptime::Negative => received,
            Uptime::Several => Time::default(),
        }
    }

    /// The same, and never later than it really did: that was said after `sent`, and a second may have begun between
    /// what it said of its uptime and of its clock.
    pub(super) fn up_before(&self, sent: Time, received: Time, into: Duration) -> Time {
        match self.uptime {
            Uptime::Seconds(seconds) => sent.minus(Duration::from_secs(seconds) + into + SECOND),
            Uptime::Unsaid | Uptime::Several => self.up_since(received, into),
            Uptime::Negative => Time::default(),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// The finding that a server is too old.
pub(crate) fn too_old(version: &str) -> NodeError {
    NodeError::WrongServer(WrongServer::TooOld {
        version: version.to_owned(),
    })
}

fn readable(reply: RedisResult<Value>, handed: bool) -> Result<Value, NodeError> {
    reply.map_err(|error| fault::missing(&error, "info", handed))
}

fn is_info(reply: &RedisResult<Value>) -> bool {
    matches!(
        reply,
        Ok(Value::BulkString(_) | Value::VerbatimString { .. })
    )
}

pub(super) fn info_text(reply: &Value) -> Result<String, NodeError> {
    match reply {
        // The path of the server's binary is in it, and that need not be UTF-8.
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } => Ok(text.clone()),
        _ => Err(WrongServer::NotRedis.into()),
    }
}

pub(super) fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim())
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn is_version(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    text.len() <= 32 && text.bytes().all(sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\
        run_id:0123abcd\r\nexecutable:/usr/bin/a:b\r\nuptime_in_seconds:31\r\n";
    const MASTER: &str = "# Replication\r\nrole:master\r\n";

    fn bulk(text: &str) -> RedisResult<Value> {
        Ok(Value::BulkString(text.as_bytes().to_vec()))
    }

    fn identity(server: &str, replication: &str) -> Result<Identity, NodeError> {
        Identity::of(bulk(server), bulk(replication), false)
    }

    #[test]
    fn a_master_is_known_by_its_run_and_uptime() {
        let found = identity(SERVER, MASTER).expect("a node");
        assert_eq!(found.run_id.as_deref(), Some("0123abcd"));
        let now = Time::default().plus(Duration::from_secs(100));
        assert_eq!(
            now.since(found.up_since(now, Duration::ZERO)),
            Duration::from_secs(30)
        );
    }

    #[test]
    fn a_server_never_seems_to_have_started_before_it_did() {
        let now = Time::default().plus(Duration::from_secs(100));
        for server in [
            SERVER.replace(":31", ":0"),
            SERVER.replace(":31", ":-4"),
            SERVER.replace("uptime", "up"),
        ] {
            assert_eq!(
                identity(&server, MASTER)
                    .expect("a node")
                    .up_since(now, Duration::ZERO),
                now
            );
        }
    }

    #[test]
    fn a_handed_connection_whose_user_may_not_ask_is_refused() {
        let refused = || {
            let text = "-NOPERM User lock has no permissions to run the 'info' command\r\n";
            let reply = redis::parse_redis_value(text.as_bytes());
            reply.and_then(Value::extract_error)
        };
        let found = Identity::of(refused(), bulk(MASTER), true);
        assert_eq!(found, Err(fault::lacking("info")));
        let several = Identity::of(Ok(Value::Map(vec![])), bulk(MASTER), true);
        assert_eq!(several, Ok(Identity::default()));
    }

    #[test]
    fn a_server_that_cannot_be_a_node_is_told_apart() {
        let cases = [
            (
                SERVER.replace("7.0.15", "6.0.16"),
                MASTER,
                too_old("6.0.16"),
            ),
            (
                SERVER.replace("7.0.15", "hunter 2"),
                MASTER,
                too_old("unknown"),
            ),
            (
                SERVER.replace("redis_version", "x"),
                MASTER,
                WrongServer::NotRedis.into(),
            ),
            (
                SERVER.replace("standalone", "cluster"),
                MASTER,
                WrongServer::ClusterNode.into(),
            ),
            (
                SERVER.replace("standalone", "sentinel"),
                MASTER,
                WrongServer::NotRedis.into(),
            ),
            (
                SERVER.to_owned(),
                "role:slave\r\n",
                WrongServer::Replica.into(),
            ),
        ];
        for (server, replication, expected) in cases {
            assert_eq!(identity(&server, replication), Err(expected), "{server}");
        }
        for version in ["6.2.0", "6.2", "8.0.0-rc1", "10.1"] {
            assert!(
                identity(&SERVER.replace("7.0.15", version), MASTER).is_ok(),
                "{version}"
            );
        }
        let valkey = SERVER.replace("7.0.15", "x") + "valkey_version:9.0.0\r\n";
        assert!(identity(&valkey, MASTER).is_ok());
    }

    #[test]
    fn a_handed_connection_to_several_servers_is_taken_as_it_is() {
        let several = || Ok(Value::Map(vec![]));
        let found = Identity::of(several(), several(), true).expect("a node");
        assert_eq!(
            found.up_since(Time::default().plus(Duration::from_secs(9)), Duration::ZERO),
            Time::default()
        );
        assert!(Identity::of(several(), several(), false).is_err());
        let cluster = SERVER.replace("standalone", "cluster");
        assert!(Identity::of(bulk(&cluster), bulk(MASTER), true).is_ok());
    }
}
