//! The handshake: which server a new connection leads to, and whether it can be a node.

mod eviction;
mod identity;

use std::{sync::Arc, time::Duration};

use futures::future::join;
use redis::{Cmd, RedisError, RedisResult, Value, cmd};

use super::{
    Context,
    connection::Connection,
    encode::{Script, Shas},
    fault,
    node_clock::NodeClock,
    reply,
};
use crate::{
    error::{NodeError, WrongServer},
    runtime::rng::Rng,
    time::Time,
};

pub(super) use eviction::Eviction;
use identity::Identity;
pub(super) use identity::too_old;

/// The right that a refused subscription lacks.
const CHANNEL: &str = "channel redlock-fifo:*";

/// What a handshake found.
#[derive(Debug)]
pub(super) struct ServerInfo {
    /// Names this run of the server; `None` if the connection may lead to several.
    pub(super) run_id: Option<String>,
    pub(super) up_since: Time,
    pub(super) up_before: Time,
    pub(super) shas: Shas,
    /// Shared with the roster, which compares the nodes' clocks.
    pub(super) node_clock: Arc<NodeClock>,
    /// How the server may drop keys; `None` if it does not, or does not say.
    pub(super) eviction: Option<Eviction>,
}

/// Shakes hands, in two round trips; over a connection of the user's in one for each command. With `listen` it
/// subscribes to the client's channel.
pub(super) async fn shake(
    connection: &Connection,
    context: &Context,
    listen: bool,
) -> Result<ServerInfo, NodeError> {
    let handed = connection.is_handed();
    let first = [
        info("server"),
        info("replication"),
        info("memory"),
        cmd("TIME"),
    ];
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
    let Ok([server, replication, memory, time, loads @ ..]) = <[_; 9]>::try_from(replies) else {
        return Err(WrongServer::NotRedis.into());
    };

    let identity = Identity::of(server, replication, handed)?;
    let time = right(time, "time", handed).map(|time| reply::time(&time));
    let into = time.as_ref().ok().copied().flatten();
    let into = Duration::from_millis(into.unwrap_or(0) % 1000);
    let node_clock = match time {
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
    Ok(ServerInfo {
        up_since: identity.up_since(received, into),
        up_before: identity.up_before(sent, received, into),
        run_id: identity.run_id,
        shas,
        node_clock: Arc::new(node_clock),
        eviction: Eviction::of(memory),
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
    let mut run = shas.run(
        Script::Handshake,
        keys.iter().map(String::as_str),
        keys.len(),
        1,
    );
    run.arg(&*context.channel);
    let reply = match connection.request(&run).await {
        Ok(reply) => reply,
        // The user may not touch the probe's keys. The names that will be locked may be allowed.
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

/// Subscribes to the client's one channel and awaits the confirmation. The driver must not resubscribe by itself: its
/// automatic resubscription shifts replies, so that commands get each other's answers.
async fn subscribe(
    connection: &Connection,
    context: &Context,
    listen: bool,
) -> Result<(), NodeError> {
    let Connection::Own(own) = connection else {
        return Ok(());
    };
    if !listen {
        return Ok(());
    }
    let subscribed = own.subscribe(&context.channel).await;
    subscribed.map_err(|error| match error.code() {
        Some("NOPERM") if !fault::is_forbidden(&error) => fault::lacking(CHANNEL),
        _ => fault::missing(&error, "subscribe", false),
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

fn sha(reply: &Value) -> Option<Box<str>> {
    let text = reply::text(reply)?;
    (text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.into())
}

fn is_word(text: &str) -> bool {
    text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}
