//! Answers, read strictly.
//!
//! An answer is either exactly what our scripts give, with every number in its range, or it is not understood, whatever a
//! server, a proxy or somebody else's keys make of it. The driver's own conversions will not do: they take -1 for
//! 18446744073709551615.

use std::time::Duration;

use redis::Value;

use crate::message::{Extended, MAX_REPORTED, Released, Reply, Report, Standing, Waiting};

/// Below this every whole number is exact in Lua.
const EXACT: u64 = 1 << 53;

/// The server's clock, in milliseconds, and what follows it.
pub(super) fn envelope(reply: &Value) -> Option<(u64, &[Value])> {
    let (clock, rest) = array(reply)?.split_first()?;
    Some((number(clock)?, rest))
}

/// The answers of `enqueue.lua`.
pub(super) fn standings(_clock: u64, answers: &[Value]) -> Option<Vec<Reply>> {
    all(answers, |answer| standing(answer).map(Reply::Standing))
}

/// The answers of `extend.lua`.
pub(super) fn extended(_clock: u64, answers: &[Value]) -> Option<Vec<Reply>> {
    let one = |answer: &Value| match answer {
        Value::Int(2) => Some(Extended::InLine),
        Value::Int(0) => Some(Extended::Gone),
        Value::Array(vote) => match vote.as_slice() {
            [Value::Int(1), seq] => Some(Extended::Stands { seq: number(seq)? }),
            _ => None,
        },
        _ => None,
    };
    all(answers, |answer| one(answer).map(Reply::Extended))
}

/// The answers of `release.lua`.
pub(super) fn released(_clock: u64, answers: &[Value]) -> Option<Vec<Reply>> {
    let one = |answer: &Value| match array(answer)? {
        [Value::Int(2)] => Some(Released::Vote),
        [Value::Int(1)] => Some(Released::Ticket),
        [Value::Int(0)] => Some(Released::Nothing),
        _ => None,
    };
    all(answers, |answer| one(answer).map(Reply::Released))
}

/// Each of `answers`, if all are understood. Most calls have one: `collect` would make room for four.
fn all<T>(answers: &[Value], one: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let mut read = Vec::with_capacity(answers.len());
    for answer in answers {
        read.push(one(answer)?);
    }
    Some(read)
}

/// The answer of `inspect.lua`.
pub(super) fn report(clock: u64, rest: &[Value]) -> Option<Report> {
    let [holder, left, seq, waiting, line @ ..] = rest else {
        return None;
    };
    let (waiters, []) = line.as_chunks::<3>() else {
        return None;
    };
    if waiters.len() > MAX_REPORTED {
        return None;
    }
    let waiter = |[id, number_, waiter_end]: &[Value; 3]| {
        Some(Waiting {
            id: foreign(id)?,
            number: number(number_).unwrap_or_default(),
            waiter_end: number(waiter_end).unwrap_or_default(),
        })
    };
    let holder = match foreign(holder)? {
        id if id.is_empty() => None,
        id => Some((id, ttl(left)?)),
    };
    Some(Report {
        clock,
        holder,
        seq: Some(number(seq)?).filter(|seq| *seq > 0),
        waiting: number(waiting)?,
        line: waiters.iter().map(waiter).collect::<Option<_>>()?,
    })
}

/// The answer of `TIME`, in milliseconds.
pub(super) fn time(reply: &Value) -> Option<u64> {
    let [seconds, micros] = array(reply)? else {
        return None;
    };
    let (seconds, micros) = (digits(text(seconds)?)?, digits(text(micros)?)?);
    let millis = seconds.checked_mul(1000)?.checked_add(micros / 1000)?;
    (millis < EXACT).then_some(millis)
}

/// A string.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A value that another Redlock client may have written: some write bytes that are no text.
fn foreign(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) if text(value).is_none() => Some(bytes.escape_ascii().to_string()),
        value => text(value).map(str::to_owned),
    }
}

fn standing(answer: &Value) -> Option<Standing> {
    if *answer == Value::Int(3) {
        return Some(Standing::Superseded);
    }
    match array(answer)? {
        [Value::Int(1), seq, left, Value::Int(outranked @ (0 | 1))] => Some(Standing::Granted {
            seq: number(seq)?,
            left: Duration::from_millis(number(left)?),
            outranked: *outranked == 1,
        }),
        [Value::Int(2), place, ahead, waiter_end, holder_left] => Some(Standing::Waiting {
            number: number(place)?,
            ahead: number(ahead)?,
            waiter_end: number(waiter_end)?,
            holder_left: ttl(holder_left)?,
        }),
        [waiting, holder_left] => Some(Standing::Full {
            waiting: number(waiting)?,
            holder_left: ttl(holder_left)?,
        }),
        _ => None,
    }
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(value) => u64::try_from(*value).ok().filter(|value| *value < EXACT),
        _ => None,
    }
}

/// What `PTTL` answers: -1 stands for no end, -2 for no such key.
fn ttl(value: &Value) -> Option<Option<Duration>> {
    match value {
        Value::Int(-1) => Some(None),
        Value::Int(-2) => Some(Some(Duration::ZERO)),
        value => Some(Some(Duration::from_millis(number(value)?))),
    }
}

/// A number in digits; `str::parse` would take a sign.
pub(super) fn digits(text: &str) -> Option<u64> {
    let all = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| all && *value < EXACT)
}

#[cfg(test)]
pub(in crate::node) mod fuzz;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::PushKind;

    use super::{fuzz::any_value, *};

    const TOO_MUCH: i64 = 1 << 53;

    fn ints(values: &[i64]) -> Value {
        Value::Array(values.iter().copied().map(Value::Int).collect())
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn every_answer_of_the_scripts_is_understood() {
        let millis = Duration::from_millis;
        let granted = Standing::Granted {
            seq: 5,
            left: millis(70),
            outranked: true,
        };
        let waiting = |holder_left| Standing::Waiting {
            number: 5,
            ahead: 1,
            waiter_end: 9,
            holder_left,
        };
        let full = Standing::Full {
            waiting: 64,
            holder_left: Some(millis(3)),
        };
        let cases = [
            (ints(&[1, 5, 70, 1]), granted),
            (ints(&[2, 5, 1, 9, 3]), waiting(Some(millis(3)))),
            (ints(&[2, 5, 1, 9, -1]), waiting(None)),
            (ints(&[2, 5, 1, 9, -2]), waiting(Some(Duration::ZERO))),
            (ints(&[64, 3]), full),
            (Value::Int(3), Standing::Superseded),
        ];
        for (answer, expected) in cases {
            assert_eq!(
                standings(0, &[answer]),
                Some(vec![Reply::Standing(expected)])
            );
        }
        let answers = [ints(&[1, 5]), Value::Int(2), Value::Int(0)];
        let expected = [
            Extended::Stands { seq: 5 },
            Extended::InLine,
            Extended::Gone,
        ];
        let expected = expected.into_iter().map(Reply::Extended).collect();
        assert_eq!(extended(0, &answers), Some(expected));
        let answers = [ints(&[2]), ints(&[1]), ints(&[0])];
        let expected = [Released::Vote, Released::Ticket, Released::Nothing];
        let expected = expected.into_iter().map(Reply::Released).collect();
        assert_eq!(released(0, &answers), Some(expected));
    }

    #[test]
    fn an_answer_of_any_other_shape_or_range_is_not() {
        let hostile = [
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![]),
            ints(&[]),
            ints(&[1]),
            ints(&[1, 5, 70]),
            ints(&[1, 5, 70, 2]),
            ints(&[1, 5, 70, 0, 0]),
            ints(&[1, -1, 70, 0]),
            ints(&[1, TOO_MUCH, 70, 0]),
            ints(&[1, 5, -1, 0]),
            ints(&[1, 5, i64::MIN, 0]),
            ints(&[2, 5, -1, 9, 3]),
            ints(&[2, 5, 1, 9, -3]),
            ints(&[2, 5, 1, TOO_MUCH, 3]),
            ints(&[3, 64, 3]),
            ints(&[-1, 64]),
            ints(&[64, -3]),
            ints(&[3]),
            Value::Int(4),
            Value::Array(vec![
                Value::Int(1),
                bulk("5"),
                Value::Int(70),
                Value::Int(0),
            ]),
            Value::Double(3.0),
            Value::Set(vec![Value::Int(64), Value::Int(3)]),
            Value::Push {
                kind: PushKind::Subscribe,
                data: vec![Value::Int(64), Value::Int(3)],
            },
        ];
        for answer in hostile {
            assert_eq!(
                standings(0, std::slice::from_ref(&answer)),
                None,
                "{answer:?}"
            );
        }
        for answer in [
            ints(&[1]),
            ints(&[1, -1]),
            ints(&[2, 2]),
            ints(&[2]),
            ints(&[0]),
            Value::Int(1),
            Value::Nil,
        ] {
            assert_eq!(
                extended(0, std::slice::from_ref(&answer)),
                None,
                "{answer:?}"
            );
        }
        for answer in [ints(&[3]), ints(&[-1]), ints(&[0, 0]), Value::Int(2)] {
            assert_eq!(
                released(0, std::slice::from_ref(&answer)),
                None,
                "{answer:?}"
            );
        }
        for reply in [
            ints(&[]),
            ints(&[-1]),
            ints(&[TOO_MUCH]),
            Value::Nil,
            bulk("1"),
        ] {
            assert_eq!(envelope(&reply), None, "{reply:?}");
        }
    }

    #[test]
    fn a_report_lists_whole_waiters_only() {
        let number = Value::Int;
        let head = [bulk("h"), number(-1), number(0), number(1)];
        let waiter = [bulk("w"), number(3), number(4)];
        let listed = report(8, &[head.as_slice(), &waiter].concat()).expect("a report");
        assert_eq!(listed.holder, Some(("h".to_owned(), None)));
        assert_eq!((listed.clock, listed.seq, listed.waiting), (8, None, 1));
        assert_eq!(listed.line.len(), 1);

        let free = [bulk(""), number(-2), number(7), number(0)];
        let listed = report(8, &free).expect("a report");
        assert_eq!((listed.holder, listed.seq), (None, Some(7)));

        assert_eq!(report(8, &head[..3]), None);
        assert_eq!(report(8, &[head.as_slice(), &waiter[..2]].concat()), None);
        // Anybody may hold the lock under any value, or put anything in line.
        let binary = Value::BulkString(vec![0xff]);
        let held = [binary.clone(), number(1), number(0), number(0)];
        let listed = report(8, &held).expect("a report");
        assert_eq!(listed.holder.map(|(id, _)| id), Some("\\xff".to_owned()));
        let strange = [binary, number(-3), bulk("inf")];
        let listed = report(8, &[head.as_slice(), &strange].concat()).expect("a report");
        let [waiting] = listed.line.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!((&*waiting.id, waiting.number), ("\\xff", 0));
        let waiters = std::iter::repeat_n(waiter, MAX_REPORTED + 1).flatten();
        let endless: Vec<Value> = head.iter().cloned().chain(waiters).collect();
        assert_eq!(report(8, &endless), None);
    }

    #[test]
    fn a_clock_is_seconds_and_microseconds() {
        let reply = |seconds: &str, micros: &str| Value::Array(vec![bulk(seconds), bulk(micros)]);
        assert_eq!(
            time(&reply("1700000000", "123456")),
            Some(1_700_000_000_123)
        );
        assert_eq!(time(&reply("9007199254740991", "0")), None);
        assert_eq!(time(&reply("-1", "0")), None);
        assert_eq!(time(&Value::Array(vec![bulk("1")])), None);
        assert_eq!(time(&Value::Nil), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics_or_yields_a_number_out_of_range(reply in any_value()) {
            let _ = (time(&reply), text(&reply));
            let Some((clock, rest)) = envelope(&reply) else {
                return Ok(());
            };
            prop_assert!(clock < EXACT);
            let _ = released(clock, rest);
            for answer in extended(clock, rest).into_iter().flatten() {
                if let Reply::Extended(Extended::Stands { seq }) = answer {
                    prop_assert!(seq < EXACT);
                }
            }
            for answer in standings(clock, rest).into_iter().flatten() {
                let Reply::Standing(answer) = answer else {
                    panic!("{answer:?}");
                };
                let numbers = match answer {
                    Standing::Granted { seq, .. } => [seq, 0, 0],
                    Standing::Waiting { number, ahead, waiter_end, .. } => [number, ahead, waiter_end],
                    Standing::Full { waiting, .. } => [waiting, 0, 0],
                    Standing::Superseded => [0; 3],
                };
                prop_assert!(numbers.iter().all(|number| *number < EXACT));
            }
            if let Some(report) = report(clock, rest) {
                prop_assert!(report.waiting < EXACT && report.seq.is_none_or(|seq| seq < EXACT));
            }
        }
    }
}
