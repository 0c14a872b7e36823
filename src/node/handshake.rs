//! The handshake: what a fresh connection leads to, and whether that can be a node.

use std::time::Duration;

use futures::future::join;
use redis::{Cmd, RedisError, RedisResult, Value, cmd};

use super::{
    Context,
    connection::Connection,
    fault, reply,
    request::{Script, Shas},
    session::NodeClock,
};
use crate::{
    clock::Time,
    error::{NodeError, WrongServer},
    rng::Rng,
};

/// The lowest version that will do.
const OLDEST: (u32, u32) = (6, 2);

/// The right that a refused subscription lacks.
const CHANNEL: &str = "channel redlock-fifo:*";

/// What a handshake found.
#[derive(Debug)]
pub(super) struct Found {
    /// Names this run of the server; `None` if the connection may lead to several.
    pub(super) run_id: Option<String>,
    pub(super) up_since: Time,
    pub(super) shas: Shas,
    pub(super) node_clock: NodeClock,
}

/// Shakes hands: two round trips, or one a command over a handed connection. With `listen` the client's
/// channel is subscribed to.
pub(super) async fn shake(
    connection: &Connection,
    context: &Context,
    listen: bool,
) -> Result<Found, NodeError> {
    let handed = connection.is_handed();
    let first = [info("server"), info("replication"), cmd("TIME")];
    let cmds = first
        .into_iter()
        .chain(Script::ALL.map(Script::load))
        .collect();
    let sent = context.clock.now();
    let replies = connection
        .requests(cmds)
        .await
        .map_err(|error| refused(&error, handed))?;
    let received = context.clock.now();
    let Ok([server, replication, time, loads @ ..]) = <[_; 8]>::try_from(replies) else {
        return Err(WrongServer::NotRedis.into());
    };

    let identity = Identity::of(server, replication, handed)?;
    let node_clock = match right(time, "time", handed).map(|time| reply::time(&time)) {
        Ok(Some(millis)) => NodeClock::read(millis, sent, received),
        // A cluster's nodes each have a clock of their own.
        Ok(None) | Err(_) if handed => NodeClock::guess(context.clock.unix_millis(), received),
        Ok(None) => return Err(WrongServer::NotRedis.into()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::with_capacity(Script::ALL.len());
    for load in loads {
        let name = sha(&right(load, "script|load", handed)?);
        names.push(name.ok_or(WrongServer::NotRedis)?);
    }
    let Ok(names) = <[Box<str>; 5]>::try_from(names) else {
        return Err(WrongServer::NotRedis.into());
    };
    let shas = Shas::new(names);
    let probe = probe(connection, context, &shas);
    let (probed, subscribed) = join(probe, subscribe(connection, context, listen)).await;
    probed?;
    subscribed?;
    Ok(Found {
        up_since: identity.up_since(received),
        run_id: identity.run_id,
        shas,
        node_clock,
    })
}

/// Runs `handshake.lua`, which tries every command that the scripts use.
async fn probe(connection: &Connection, context: &Context, shas: &Shas) -> Result<(), NodeError> {
    let stem = format!(
        "{}{{redlock-fifo:probe:{}}}",
        context.config.key_prefix,
        Rng.uuid()
    );
    let keys = [format!("{stem}:a"), format!("{stem}:b")];
    let mut run = shas.run(Script::Handshake, keys.iter().map(String::as_str), 1);
    run.arg(&*context.channel);
    let reply = match connection.request(&run).await {
        Ok(reply) => reply,
        // The probe's keys are out of the user's reach. The names that will be locked may not be.
        Err(error) if error.code() == Some("NOPERM") && !fault::is_forbidden(&error) => {
            return Ok(());
        }
        Err(error) => return Err(fault::missing(&error, "evalsha", connection.is_handed())),
    };
    match reply::text(&reply) {
        Some("") => Ok(()),
        Some(command) if is_word(command) => Err(fault::lacking(&command.to_ascii_lowercase())),
        _ => Err(WrongServer::NotRedis.into()),
    }
}

/// Subscribes to the client's one channel and awaits the confirmation: only one, and never again by
/// the driver itself, whose automatic resubscription shifts replies.
async fn subscribe(
    connection: &Connection,
    context: &Context,
    listen: bool,
) -> Result<(), NodeError> {
    let Connection::Own(connection) = connection else {
        return Ok(());
    };
    if !listen {
        return Ok(());
    }
    let subscribed = connection.clone().subscribe(&*context.channel).await;
    subscribed.map_err(|error| match error.code() {
        Some("NOPERM") if !fault::is_forbidden(&error) => fault::lacking(CHANNEL),
        _ => fault::missing(&error, "subscribe", false),
    })
}

/// What `INFO` says of a server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Identity {
    run_id: Option<String>,
    uptime: Uptime,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Uptime {
    Seconds(u64),
    /// It does not say: as if it had just started.
    Unsaid,
    /// The connection may lead to several servers, each with its own: as if they never restarted. A user
    /// who hands such a connection over does without S5.
    #[default]
    Several,
}

impl Identity {
    fn of(
        server: RedisResult<Value>,
        replication: RedisResult<Value>,
        handed: bool,
    ) -> Result<Self, NodeError> {
        if handed && ![&server, &replication].iter().all(|reply| is_info(reply)) {
            return Ok(Self::default());
        }
        let server = info_text(&right(server, "info", handed)?)?;
        let replication = info_text(&right(replication, "info", handed)?)?;
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
        let uptime = server("uptime_in_seconds").and_then(|uptime| uptime.parse().ok());
        Ok(Self {
            run_id: server("run_id").map(str::to_owned),
            uptime: uptime.map_or(Uptime::Unsaid, Uptime::Seconds),
        })
    }

    /// Never earlier than the server really started: its uptime counts whole seconds of the wall clock,
    /// so one may be too many.
    fn up_since(&self, received: Time) -> Time {
        match self.uptime {
            Uptime::Seconds(seconds) => {
                received.minus(Duration::from_secs(seconds.saturating_sub(1)))
            }
            Uptime::Unsaid => received,
            Uptime::Several => Time::default(),
        }
    }
}

/// The finding that a server is too old.
pub(super) fn too_old(version: &str) -> NodeError {
    NodeError::WrongServer(WrongServer::TooOld {
        version: version.to_owned(),
    })
}

fn info(section: &str) -> Cmd {
    let mut info = cmd("INFO");
    info.arg(section);
    info
}

fn right(reply: RedisResult<Value>, right: &str, handed: bool) -> Result<Value, NodeError> {
    reply.map_err(|error| fault::missing(&error, right, handed))
}

fn refused(error: &RedisError, handed: bool) -> NodeError {
    match fault::failure(error, handed) {
        NodeError::Garbled => WrongServer::NotRedis.into(),
        other => other,
    }
}

fn is_info(reply: &RedisResult<Value>) -> bool {
    matches!(
        reply,
        Ok(Value::BulkString(_) | Value::VerbatimString { .. })
    )
}

fn info_text(reply: &Value) -> Result<String, NodeError> {
    match reply {
        // The path of the server's binary is in it, and that need not be UTF-8.
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } => Ok(text.clone()),
        _ => Err(WrongServer::NotRedis.into()),
    }
}

fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim())
}

fn parse_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn sha(reply: &Value) -> Option<Box<str>> {
    let text = reply::text(reply)?;
    (text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.into())
}

fn is_version(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    text.len() <= 32 && text.bytes().all(sound)
}

fn is_word(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase())
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
        assert_eq!(now.since(found.up_since(now)), Duration::from_secs(30));
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
                identity(&server, MASTER).expect("a node").up_since(now),
                now
            );
        }
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
            found.up_since(Time::default().plus(Duration::from_secs(9))),
            Time::default()
        );
        assert!(Identity::of(several(), several(), false).is_err());
        let cluster = SERVER.replace("standalone", "cluster");
        assert!(Identity::of(bulk(&cluster), bulk(MASTER), true).is_ok());
    }
}
