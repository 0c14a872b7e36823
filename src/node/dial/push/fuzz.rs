//! Pushes of any form, and damaged ones.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::node::reply::fuzz::any_value;

fn bulk(text: impl Into<Vec<u8>>) -> Value {
    Value::BulkString(text.into())
}

/// What of a payload is told, without the zeros that a number may start with.
fn canonical(payload: &str) -> String {
    let mut parts = payload.splitn(3, ' ');
    let mut number = || {
        let digits = parts.next().unwrap_or_default().trim_start_matches('0');
        if digits.is_empty() { "0" } else { digits }
    };
    let (waiter_end, seq) = (number(), number());
    format!("{waiter_end} {seq} {}", parts.next().unwrap_or_default())
}

/// Whatever is taken from `payload` says what it said.
fn is_faithful(payload: &Value) -> Result<(), TestCaseError> {
    if let Some((waiter_end, seq, id)) = told(payload) {
        prop_assert!(waiter_end < 1 << 53 && seq < 1 << 53 && (1..=MAX_ID).contains(&id.len()));
        let said = text(payload).expect("it is a text");
        prop_assert_eq!(format!("{waiter_end} {seq} {id}"), canonical(said));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_push_panics_or_counts_on_another_channel(data in prop::collection::vec(any_value(), 0..4)) {
        let ours = data.first().is_some_and(|on| text(on) == Some("c"));
        let payload = data.get(1).cloned();
        let push = PushInfo { kind: PushKind::Message, data };
        prop_assert!(granted("c", &push).is_none() || ours);
        if let Some(payload) = payload {
            is_faithful(&payload)?;
            let push = PushInfo { kind: PushKind::Message, data: vec![bulk("c"), payload.clone()] };
            prop_assert_eq!(granted("c", &push).is_some(), told(&payload).is_some());
        }
    }

    #[test]
    fn a_damaged_push_tells_what_it_says_or_nothing(
        (waiter_end, seq) in (0..1_u64 << 53, 0..1_u64 << 53),
        id in "[0-9a-f]{8}-[0-9a-f]{4}:[0-9]:[a-z ]{0,9}:[0-9]{1,13}",
        at in any::<Index>(),
        fault in 0..4_u8,
        byte in prop_oneof![any::<u8>(), prop::sample::select(b"0123456789+- ".to_vec())],
    ) {
        let mut payload = format!("{waiter_end} {seq} {id}").into_bytes();
        let sound = bulk(payload.clone());
        prop_assert_eq!(told(&sound), Some((waiter_end, seq, id.as_str())));
        let at = at.index(payload.len());
        match fault {
            0 => payload[at] = byte,
            1 => drop(payload.remove(at)),
            2 => payload.insert(at, byte),
            _ => payload.truncate(at),
        }
        is_faithful(&bulk(payload))?;
    }
}
