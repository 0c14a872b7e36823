//! Answers that were damaged on their way, as values and as bytes.
//!
//! An answer in the very form of a vote is a vote, whatever server sends it. But no answer without a vote is a single
//! fault away from one with it: the forms differ by more than one value, and where a vote has a small number,
//! the others have a counter.

use proptest::{prelude::*, sample::Index};
use redis::{PushKind, Value, VerbatimFormat, parse_redis_value};

use super::*;

/// No counter is below this: they start from the time in microseconds.
const COUNTER: i64 = 1 << 50;

/// Any value that the driver may hand over, with a bias to those that matter here.
pub(in crate::node) fn any_value() -> impl Strategy<Value = Value> {
    let int = prop_oneof![-3..6_i64, any::<i64>(), Just(1 << 53), Just((1 << 53) - 1)];
    let leaf = prop_oneof![
        4 => int.prop_map(Value::Int),
        1 => any::<Vec<u8>>().prop_map(Value::BulkString),
        1 => ".*".prop_map(Value::SimpleString),
        1 => "[0-9]{1,20} [0-9]{1,20} .*".prop_map(Value::SimpleString),
        1 => Just(Value::Nil),
        1 => Just(Value::Okay),
        1 => any::<f64>().prop_map(Value::Double),
        1 => any::<bool>().prop_map(Value::Boolean),
        1 => ".*".prop_map(|text| Value::VerbatimString { format: VerbatimFormat::Text, text }),
    ];
    leaf.prop_recursive(3, 32, 6, |inner| {
        let values = prop::collection::vec(inner.clone(), 0..7);
        let pairs = prop::collection::vec((inner.clone(), inner), 0..3);
        prop_oneof![
            4 => values.clone().prop_map(Value::Array),
            1 => values.clone().prop_map(Value::Set),
            1 => pairs.prop_map(Value::Map),
            1 => values.prop_map(|data| Value::Push { kind: PushKind::Message, data }),
        ]
    })
}

/// What `enqueue.lua` answers to a few requests.
fn enqueued() -> impl Strategy<Value = Vec<Vec<i64>>> {
    let n = || COUNTER..1_i64 << 53;
    let left = || prop_oneof![Just(-2), Just(-1), 0..100_000_i64];
    let answer = prop_oneof![
        (n(), 0..100_000_i64, 0..2_i64).prop_map(|(seq, left, ranked)| vec![1, seq, left, ranked]),
        (n(), 0..4_i64, n(), left())
            .prop_map(|(number, ahead, end, left)| vec![2, number, ahead, end, left]),
        // As like a vote as a place in line can be.
        (n(), 0..2_i64, 0..2_i64, 0..2_i64)
            .prop_map(|(number, ahead, end, left)| vec![2, number, ahead, end, left]),
        (0..65_i64, left()).prop_map(|(waiting, left)| vec![waiting, left]),
        (0..2_i64, 0..2_i64).prop_map(|(waiting, left)| vec![waiting, left]),
        Just(vec![3]),
    ];
    prop::collection::vec(answer, 1..5)
}

/// What `extend.lua` answers to a few requests.
fn prolonged() -> impl Strategy<Value = Vec<Vec<i64>>> {
    let answer = prop_oneof![
        (COUNTER..1_i64 << 53).prop_map(|seq| vec![1, seq]),
        Just(vec![2]),
        Just(vec![0])
    ];
    prop::collection::vec(answer, 1..5)
}

fn reply_of(answers: &[Vec<i64>]) -> Value {
    let int = |number: &i64| Value::Int(*number);
    let answer = |answer: &Vec<i64>| match answer.as_slice() {
        [one] => int(one),
        all => Value::Array(all.iter().map(int).collect()),
    };
    let clock = Value::Int(1_700_000_000_000);
    Value::Array(
        std::iter::once(clock)
            .chain(answers.iter().map(answer))
            .collect(),
    )
}

fn bytes_of(value: &Value) -> Vec<u8> {
    match value {
        Value::Int(number) => format!(":{number}\r\n").into_bytes(),
        Value::Array(values) => {
            let start = format!("*{}\r\n", values.len()).into_bytes();
            start
                .into_iter()
                .chain(values.iter().flat_map(bytes_of))
                .collect()
        }
        other => panic!("no answer of ours: {other:?}"),
    }
}

/// Which of so many requests have a vote by `reply`, with the checks of the session. `None`: not understood.
fn votes(reply: &Value, requests: usize) -> Option<Vec<bool>> {
    let (clock, rest) = envelope(reply)?;
    let standings = standings(clock, rest).filter(|all| all.len() == requests)?;
    let vote = |reply: &Reply| match reply {
        Reply::Standing(Standing::Granted { seq, left, .. }) => {
            assert!(*seq < EXACT && left.as_millis() < u128::from(EXACT));
            true
        }
        _ => false,
    };
    Some(standings.iter().map(vote).collect())
}

/// The same of requests to prolong.
fn stands(reply: &Value, requests: usize) -> Option<Vec<bool>> {
    let (clock, rest) = envelope(reply)?;
    let all = extended(clock, rest).filter(|all| all.len() == requests)?;
    Some(
        all.iter()
            .map(|one| matches!(one, Reply::Extended(Extended::Stands { .. })))
            .collect(),
    )
}

/// Whether this is a vote in the answers of [`enqueued`] or [`prolonged`].
fn is_vote(answer: &[i64]) -> bool {
    matches!(answer, [1, _, _, _]) || matches!(answer, [1, counter] if *counter >= COUNTER)
}

/// No request has a vote by `found` that it has not by `told`.
fn none_is_new(found: Option<Vec<bool>>, told: &[Vec<i64>]) -> Result<(), TestCaseError> {
    for (has, answer) in found.into_iter().flatten().zip(told) {
        prop_assert!(!has || is_vote(answer), "a vote was made up");
    }
    Ok(())
}

/// How many values there are in a tree, itself included.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// One fault at the `at`-th value of a tree: it becomes `new`, is lost, or `new` comes before it.
fn damage(value: &mut Value, at: usize, fault: u8, new: &Value) {
    if at == 0 {
        *value = new.clone();
        return;
    }
    let Value::Array(values) = value else { return };
    let mut left = at - 1;
    for place in 0..values.len() {
        let here = size(&values[place]);
        match (left, fault) {
            (0, 1) => drop(values.remove(place)),
            (0, 2) => values.insert(place, new.clone()),
            _ if left < here => damage(&mut values[place], left, fault, new),
            _ => {
                left -= here;
                continue;
            }
        }
        return;
    }
}

/// One value in the place of another, with a bias to what starts a vote. A whole vote is no damage but a lie.
fn other_value() -> impl Strategy<Value = Value> {
    let is_vote = |new: &Value| {
        let one = std::slice::from_ref(new);
        votes(&Value::Array(vec![Value::Int(0), new.clone()]), 1) == Some(vec![true])
            || extended(0, one)
                .is_some_and(|all| matches!(all[0], Reply::Extended(Extended::Stands { .. })))
    };
    prop_oneof![(-2..6_i64).prop_map(Value::Int), any_value()]
        .prop_filter("a lie", move |new| !is_vote(new))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_single_fault_makes_a_vote(
        (told, prolonged) in (enqueued(), prolonged()),
        at in any::<Index>(),
        fault in 0..3_u8,
        new in other_value(),
    ) {
        let mut reply = reply_of(&told);
        let at_ = at.index(size(&reply) - 1) + 1;
        damage(&mut reply, at_, fault, &new);
        none_is_new(votes(&reply, told.len()), &told)?;
        let mut reply = reply_of(&prolonged);
        let at_ = at.index(size(&reply) - 1) + 1;
        damage(&mut reply, at_, fault, &new);
        none_is_new(stands(&reply, prolonged.len()), &prolonged)?;
    }

    #[test]
    fn no_damaged_byte_makes_a_vote(
        (told, prolonged) in (enqueued(), prolonged()),
        at in any::<Index>(),
        fault in 0..4_u8,
        byte in prop_oneof![any::<u8>(), prop::sample::select(b"*:$+-_#~%>,0123456789\r\n".to_vec())],
    ) {
        let spoilt = |answers: &[Vec<i64>]| {
            let mut bytes = bytes_of(&reply_of(answers));
            let at = at.index(bytes.len());
            match fault {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
            parse_redis_value(&bytes).ok()
        };
        if let Some(reply) = spoilt(&told) {
            none_is_new(votes(&reply, told.len()), &told)?;
        }
        if let Some(reply) = spoilt(&prolonged) {
            none_is_new(stands(&reply, prolonged.len()), &prolonged)?;
        }
    }

    #[test]
    fn what_was_not_damaged_is_understood((told, prolonged) in (enqueued(), prolonged())) {
        let has = |all: &[Vec<i64>]| Some(all.iter().map(|answer| is_vote(answer)).collect::<Vec<_>>());
        for reply in [reply_of(&told), parse_redis_value(&bytes_of(&reply_of(&told))).expect("sound")] {
            prop_assert_eq!(votes(&reply, told.len()), has(&told));
        }
        prop_assert_eq!(stands(&reply_of(&prolonged), prolonged.len()), has(&prolonged));
    }

    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(reply) = parse_redis_value(&bytes) {
            let _ = (votes(&reply, 1), stands(&reply, 1), time(&reply), text(&reply));
        }
    }
}
