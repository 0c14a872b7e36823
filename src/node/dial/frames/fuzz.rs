//! Beside the driver's parser, on answers of any form and damaged ones.

use proptest::{prelude::*, sample::Index};
use redis::{ErrorKind, parse_redis_value};

use super::*;

/// An answer as a server may send it.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "\\+[ -~]{0,9}\r\n",
        "-[A-Z]{1,9} [a-z]{0,9}\r\n",
        ":-?[0-9]{1,18}\r\n",
        ",-?[0-9]{1,9}(\\.[0-9]{1,3})?\r\n",
        "\\([0-9]{1,40}\r\n",
        "[$*~>]-1\r\n",
        prop::sample::select(vec!["_\r\n", "#t\r\n", "#f\r\n"]).prop_map(str::to_owned),
    ];
    let text = (prop::sample::select(vec!['$', '!', '=']), "[a-z\r\n]{0,30}")
        .prop_map(|(mark, text)| format!("{mark}{}\r\ntxt:{text}\r\n", text.len() + 4));
    let leaf = prop_oneof![line, text].prop_map(String::into_bytes);
    leaf.prop_recursive(4, 40, 5, |inner| {
        let marks = prop::sample::select(vec![('*', 1), ('~', 1), ('%', 2), ('|', 2), ('>', 1)]);
        (marks, prop::collection::vec(inner, 1..8)).prop_map(|((mark, each), parts)| {
            let count = (parts.len() - usize::from(mark == '|')) / each;
            let taken = count * each + usize::from(mark == '|');
            let first = if mark == '>' { "+message\r\n" } else { "" };
            let count = count + usize::from(mark == '>');
            let mut whole = format!("{mark}{count}\r\n{first}").into_bytes();
            whole.extend(parts[..taken].concat());
            whole
        })
    })
}

/// The answers that `bytes` are divided into, whatever chunks they come in; and the start of one more.
fn divided(bytes: &[u8], chunk: usize) -> (Vec<&[u8]>, &[u8]) {
    let (mut frames, mut ends) = (Frames::new(), vec![0]);
    for (at, byte) in bytes.iter().enumerate() {
        if frames.follow(&[*byte]).is_err() {
            break;
        }
        if frames.length == 0 {
            ends.push(at + 1);
        }
    }
    let mut whole = Frames::new();
    let chunks: Result<(), _> = bytes.chunks(chunk).try_for_each(|part| whole.follow(part));
    if chunks.is_ok() {
        assert_eq!(
            (whole.length, whole.lacking),
            (frames.length, frames.lacking)
        );
    }
    let answers = ends
        .windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect();
    (answers, &bytes[*ends.last().expect("the start")..])
}

/// Whether the parser wants more than `bytes`.
fn lacks(bytes: &[u8]) -> bool {
    parse_redis_value(bytes).is_err_and(|error| error.kind() == ErrorKind::Io)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn answers_are_divided_as_the_parser_does(
        answers in prop::collection::vec(answer(), 1..5),
        chunk in 1..50_usize,
    ) {
        let bytes = answers.concat();
        let (divided, more) = divided(&bytes, chunk);
        prop_assert_eq!(&divided, &answers);
        prop_assert_eq!(more, b"");
        for answer in divided {
            prop_assert!(!lacks(answer));
            prop_assert!(lacks(&answer[..answer.len() - 1]));
        }
    }

    /// What the parser still keeps must not count as complete.
    #[test]
    fn nothing_that_is_damaged_ends_before_the_parser_is_done_with_it(
        answers in prop::collection::vec(answer(), 1..4),
        faults in prop::collection::vec(
            (any::<Index>(), 0..4_u8, prop_oneof![
                any::<u8>(),
                prop::sample::select(b"+-:_,#($!=*~>%|\r\n0123456789 ".to_vec()),
            ]),
            1..6,
        ),
        chunk in 1..50_usize,
    ) {
        let mut bytes = answers.concat();
        for (at, fault, byte) in faults {
            let at = at.index(bytes.len());
            match fault {
                0 => bytes[at] = byte,
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at + 1),
                _ => bytes.insert(at, byte),
            }
        }
        for answer in divided(&bytes, chunk).0 {
            // It ends the connection where it refuses one.
            if parse_redis_value(answer).is_err() {
                prop_assert!(!lacks(answer));
                break;
            }
        }
    }
}
