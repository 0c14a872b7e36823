//! What a failed command means.
//!
//! Of a server's error only the code is kept: old servers and proxies repeat the arguments of a command that they
//! refuse, and those may be passwords.

use std::io;

use redis::{ErrorKind, RedisError};

use crate::error::{NodeError, WrongServer};

/// The longest error code that is passed on.
const MAX_CODE: usize = 32;

/// Why a call failed. On `handed` connections redirections are expected: they may lead to a cluster.
pub(super) fn failure(error: &RedisError, handed: bool) -> NodeError {
    if let Some(code) = error.code() {
        return refusal(code, error.detail().unwrap_or_default(), handed);
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => WrongServer::NeedsAuthentication.into(),
        // The connection closed in the middle of an answer. The driver reports that as a malformed answer.
        ErrorKind::Parse if error.to_string().contains("end of input") => NodeError::Broken,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => NodeError::Garbled,
        _ if error.is_timeout() => NodeError::TimedOut,
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => NodeError::Broken,
        _ => NodeError::Down(error.category().to_owned()),
    }
}

/// Why a connection could not be opened.
pub(super) fn no_connection(error: &RedisError) -> NodeError {
    // This is the operating system's text about an address. It does not contain the login.
    if error.is_io_error() {
        return NodeError::Down(error.to_string());
    }
    match failure(error, false) {
        NodeError::Garbled => WrongServer::NotRedis.into(),
        other => other,
    }
}

/// Why a socket could not be opened.
pub(super) fn no_socket(error: &io::Error) -> NodeError {
    NodeError::Down(error.to_string())
}

/// Why a command of the handshake that needs the right `right` failed.
pub(super) fn missing(error: &RedisError, right: &str, handed: bool) -> NodeError {
    if is_unknown(error) || error.code() == Some("NOPERM") {
        return lacking(right);
    }
    match failure(error, handed) {
        NodeError::Garbled => WrongServer::NotRedis.into(),
        other => other,
    }
}

/// Whether the server has no such command.
pub(super) fn is_unknown(error: &RedisError) -> bool {
    let says = |text: &str| error.detail().is_some_and(|detail| detail.contains(text));
    error.code() == Some("ERR") && (says("unknown command") || says("nknown subcommand"))
}

/// Whether the user may not run the command at all; a key or channel out of reach is another matter.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") && error.detail().is_some_and(forbids_command)
}

/// The finding that the user lacks the right to `right`.
pub(super) fn lacking(right: &str) -> NodeError {
    NodeError::WrongServer(WrongServer::MissingRights {
        right: right.to_owned(),
    })
}

fn refusal(code: &str, detail: &str, handed: bool) -> NodeError {
    if let Some(code) = within_script(code, detail) {
        return refusal(code, "", handed);
    }
    match code {
        "NOAUTH" | "WRONGPASS" => WrongServer::NeedsAuthentication.into(),
        "READONLY" => WrongServer::Replica.into(),
        "ERR" if detail.starts_with("DB index is out of range") => WrongServer::NoDatabase.into(),
        "NOPERM" if forbids_command(detail) => lacking("evalsha"),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" if !handed => WrongServer::ClusterNode.into(),
        _ => NodeError::Refused(clean(code).to_owned()),
    }
}

/// The code of what went wrong within a script, which Redis 6 wraps: `ERR Error running script (call to
/// f_…): @user_script:1: @user_script: 1: -OOM command not allowed …`.
fn within_script<'a>(code: &str, detail: &'a str) -> Option<&'a str> {
    if code != "ERR" || !detail.starts_with("Error running script") {
        return None;
    }
    let (_, message) = detail.rsplit_once("script:")?;
    let (_, message) = message.split_once(": ")?;
    let code = message.trim_start_matches('-').split(' ').next()?;
    (clean(code) == code).then_some(code)
}

fn forbids_command(detail: &str) -> bool {
    detail.contains("permissions to run")
}

fn clean(code: &str) -> &str {
    let is_code = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    let sound = (1..=MAX_CODE).contains(&code.len()) && code.bytes().all(is_code);
    if sound { code } else { "ERR" }
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{Value, parse_redis_value};

    use super::*;

    fn refused(line: &str) -> RedisError {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an error reply");
        reply
            .extract_error()
            .map(|_: Value| ())
            .expect_err("an error")
    }

    #[test]
    fn a_refusal_is_known_by_its_code() {
        let wrong = NodeError::WrongServer;
        let code = |code: &str| NodeError::Refused(code.to_owned());
        let cases = [
            ("OOM command not allowed", code("OOM")),
            ("BUSY a script runs", code("BUSY")),
            ("WRONGTYPE Operation against", code("WRONGTYPE")),
            (
                "NOAUTH Authentication required.",
                wrong(WrongServer::NeedsAuthentication),
            ),
            (
                "WRONGPASS invalid pair",
                wrong(WrongServer::NeedsAuthentication),
            ),
            ("READONLY You can't write", wrong(WrongServer::Replica)),
            (
                "ERR DB index is out of range",
                wrong(WrongServer::NoDatabase),
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't",
                wrong(WrongServer::Replica),
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not",
                code("OOM"),
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation against",
                code("WRONGTYPE"),
            ),
            (
                "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: The user can't",
                code("ERR"),
            ),
            (
                "NOPERM this user has no permissions to run the 'evalsha' command",
                lacking("evalsha"),
            ),
            ("NOPERM No permissions to access a key", code("NOPERM")),
            ("MOVED 1 a:1", wrong(WrongServer::ClusterNode)),
            ("CROSSSLOT keys", wrong(WrongServer::ClusterNode)),
        ];
        for (line, expected) in cases {
            assert_eq!(failure(&refused(line), false), expected, "{line}");
        }
        assert_eq!(failure(&refused("MOVED 1 a:1"), true), code("MOVED"));
    }

    #[test]
    fn nothing_a_server_echoes_gets_through() {
        let long = format!("{} x", "A".repeat(33));
        for line in [
            "hunter2",
            "hunter2 x",
            "ERR unknown command 'AUTH' 'hunter2'",
            "é x",
            &long,
        ] {
            let error = failure(&refused(line), false);
            assert_eq!(error, NodeError::Refused("ERR".to_owned()), "{line}");
        }
    }

    #[test]
    fn an_unreachable_address_is_explained_by_the_system() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(failure(&error, false), NodeError::Broken);
        assert_eq!(
            no_connection(&error),
            NodeError::Down("connection refused".to_owned())
        );
    }
}
