//! Pushes: what a server sends without being asked.

use std::sync::Arc;

use redis::{PushInfo, PushKind, Value, aio::SendError};

use crate::node::{
    Context, NodeEvent,
    health::Health,
    reply::{digits, text},
};

/// The longest holder id that is taken from a push.
const MAX_ID: usize = 512;

/// Hears pushes. It runs on the connection's own task: whatever comes, it neither waits nor panics.
pub(super) fn listener(
    context: Context,
    health: Arc<Health>,
) -> impl Fn(PushInfo) -> Result<(), SendError> + Send + Sync + 'static {
    move |push| {
        match push.kind {
            PushKind::Disconnection => health.lose("the connection broke"),
            // Until the client knows of this connection, it would take a push for news from the previous one (S5).
            PushKind::Message if health.is_open() => {
                if let Some(event) = granted(&context.channel, &push) {
                    context.events.tell(event);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn granted(channel: &str, push: &PushInfo) -> Option<NodeEvent> {
    let [on, payload] = push.data.as_slice() else {
        return None;
    };
    if text(on)? != channel {
        return None;
    }
    let (waiter_end, seq, id) = told(payload)?;
    let id = id.to_owned();
    Some(NodeEvent::Granted {
        id,
        waiter_end,
        seq,
    })
}

/// The end of the waiter ttl, the counter and the holder id in a push.
fn told(payload: &Value) -> Option<(u64, u64, &str)> {
    let mut parts = text(payload)?.splitn(3, ' ');
    let waiter_end = digits(parts.next()?)?;
    let seq = digits(parts.next()?)?;
    let id = parts.next().filter(|id| (1..=MAX_ID).contains(&id.len()))?;
    Some((waiter_end, seq, id))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn push(data: &[&str]) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: data.iter().map(|text| bulk(text)).collect(),
        }
    }

    #[test]
    fn only_messages_on_our_channel_count() {
        let expected = NodeEvent::Granted {
            id: "an id".to_owned(),
            waiter_end: 5,
            seq: 6,
        };
        assert_eq!(granted("c", &push(&["c", "5 6 an id"])), Some(expected));
        assert_eq!(granted("c", &push(&["d", "5 6 an id"])), None);
        assert_eq!(granted("c", &push(&["c", ""])), None);
        assert_eq!(granted("c", &push(&["c"])), None);
        assert_eq!(granted("c", &push(&["c", "5 6 x", "more"])), None);
    }

    #[test]
    fn a_push_is_read_strictly() {
        assert_eq!(told(&bulk("12 34 an id")), Some((12, 34, "an id")));
        let long = format!("1 2 {}", "x".repeat(MAX_ID + 1));
        for payload in [
            "",
            "1 2",
            "1 2 ",
            "+1 2 x",
            "-1 2 x",
            "1  2",
            "9007199254740992 2 x",
            &long,
        ] {
            assert_eq!(told(&bulk(payload)), None, "{payload}");
        }
        assert_eq!(told(&Value::Int(1)), None);
        assert_eq!(told(&Value::BulkString(vec![b'1', b' ', 0xff])), None);
    }
}
