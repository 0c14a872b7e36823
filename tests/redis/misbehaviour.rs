//! The ways in which a server can be hostile or sick, for [`fake`](crate::fake).
//!
//! None of them gives a vote: an answer in the very form of a vote, with a number in every range, is one,
//! whoever sends it. What looks like one here has something wrong with it.

use std::{sync::Arc, time::Duration};

use crate::fake::{Act, Call, Manner, Script, now_millis};

/// What is as much as a vote is worth nothing for: 2^53 is not exact in Lua.
const TOO_MUCH: u64 = 1 << 53;

/// Every error that a server has reason to give, and some that none has.
const ERRORS: [&str; 22] = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOPERM No permissions to access a key",
    "NOSCRIPT No matching script. Please use EVAL.",
    "MOVED 3999 127.0.0.1:6381",
    "ASK 3999 127.0.0.1:6381",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN Link with MASTER is down",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "MISCONF Redis is configured to save RDB snapshots",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "EXECABORT Transaction discarded because of previous errors.",
    "UNKILLABLE Sorry the script already executed write commands",
    "ERR unknown command",
    "",
];

/// Replies that no command of ours has.
const REPLIES: [&[u8]; 44] = [
    b"\x00\xff\x13\x37 garbage \xfe\r\n",
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"+OK\r\n",
    b"+\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$3\r\n\xff\xfe\xfd\r\n",
    b"$-7\r\n",
    b"$99999999999999999999\r\n",
    b"$9223372036854775807\r\nx",
    b"$10\r\nhalf",
    b"*-1\r\n",
    b"*0\r\n",
    b"*-7\r\n",
    b"*2\r\n:1\r\n",
    b"*99999999999999999999\r\n",
    b"*9223372036854775807\r\n:1\r\n",
    b":1\r\n",
    b":-1\r\n",
    b":9223372036854775807\r\n",
    b":-9223372036854775808\r\n",
    b":99999999999999999999999\r\n",
    b":one\r\n",
    b":\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b",nan\r\n",
    b",inf\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"=9\r\ntxt:hello\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b"%9223372036854775807\r\n",
    b"~1\r\n:1\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n",
    b">0\r\n",
    b">-1\r\n",
    b">1\r\n:1\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nr\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
    b">3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
    b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n",
];

/// Answers in the right frame, with something wrong in them; `NOW` stands for the clock.
const ANSWERS: [&str; 25] = [
    // A vote that is over, and numbers out of their range.
    "*2 :NOW *4 :1 :5 :0 :0",
    "*2 :NOW *4 :1 :5 :-1 :0",
    "*2 :NOW *4 :1 :5 :-9223372036854775808 :0",
    "*2 :NOW *4 :1 :5 :9223372036854775807 :0",
    "*2 :NOW *4 :1 :-1 :9000 :0",
    "*2 :NOW *4 :1 :9007199254740992 :9000 :0",
    "*2 :NOW *4 :1 :9223372036854775807 :9000 :0",
    "*2 :NOW *4 :1 :5 :9000 :2",
    "*2 :NOW *4 :1 :5 :9000 :-1",
    "*2 :-1 *4 :1 :5 :9000 :0",
    "*2 :9223372036854775807 *4 :1 :5 :9000 :0",
    "*2 :NOW *5 :2 :-1 :0 :NOW :9000",
    "*2 :NOW *5 :2 :9223372036854775807 :0 :NOW :9000",
    "*2 :NOW *5 :2 :5 :-1 :NOW :9000",
    "*2 :NOW *5 :2 :5 :0 :-1 :9000",
    "*2 :NOW *5 :2 :5 :0 :NOW :-3",
    // Wrong types.
    "*2 :NOW *4 :1 +5 :9000 :0",
    "*2 :NOW *4 :1 ,5 :9000 :0",
    "*2 :NOW *4 #t :5 :9000 #f",
    "*2 +NOW *4 :1 :5 :9000 :0",
    "*2 :NOW ~4 :1 :5 :9000 :0",
    // Too many, too few, too deep.
    "*2 :NOW *3 :1 :5 :9000",
    "*3 :NOW *4 :1 :5 :9000 :0 *4 :1 :5 :9000 :0",
    "*1 :NOW",
    "*2 :NOW *1 *4 :1 :5 :9000 :0",
];

/// All of them, each with a name.
pub(crate) fn all() -> Vec<(String, Manner)> {
    let mut all: Vec<(String, Manner)> = Vec::new();
    for error in ERRORS {
        all.push((
            format!("-{error}"),
            says(format!("-{error}\r\n").into_bytes()),
        ));
    }
    for reply in REPLIES {
        all.push((
            String::from_utf8_lossy(reply).into_owned(),
            says(reply.to_vec()),
        ));
    }
    for answer in ANSWERS {
        all.push((answer.to_owned(), framed(answer)));
    }
    all.extend(slow_or_broken());
    all.extend(pushy());
    all
}

/// Half a vote, or none, and then nothing; and an end in the middle of everything.
fn slow_or_broken() -> Vec<(String, Manner)> {
    let half = |call: &Call| {
        let vote = vote(call);
        vote[..vote.len() / 2].to_vec()
    };
    let named = |name: &str, manner: Manner| (name.to_owned(), manner);
    vec![
        named("hangs", requests(|_| vec![Act::Hang])),
        named("closes", requests(|_| vec![Act::Close])),
        named(
            "half a vote, then nothing",
            requests(move |call| vec![Act::Send(half(call)), Act::Hang]),
        ),
        named(
            "half a vote, then the end",
            requests(move |call| vec![Act::Send(half(call)), Act::Close]),
        ),
        named(
            "one byte a second",
            requests(|call| vec![Act::Drip(vote(call))]),
        ),
        named(
            "hangs at every second connection, half-way through the handshake",
            Arc::new(|call| {
                let relapsed = call.connection > 0 && call.words[0] == "TIME";
                (relapsed || call.is_request()).then(|| vec![Act::Hang])
            }),
        ),
        named(
            "an error without an end in sight",
            says(format!("-ERR {}\r\n", "x".repeat(1 << 16)).into_bytes()),
        ),
        named("brackets without end", says(b"*1\r\n".repeat(1000))),
        named(
            "knows no script ever",
            Arc::new(|call| {
                call.is_request()
                    .then(|| vec![Act::Send(b"-NOSCRIPT No matching script.\r\n".to_vec())])
            }),
        ),
    ]
}

/// Tells of votes that there are not. The line that it puts everyone in is in order, and so is all of the
/// push but for what its name says.
fn pushy() -> Vec<(String, Manner)> {
    type Forge = fn(&Call, u64) -> Vec<u8>;
    let forged: [(&str, Forge); 9] = [
        ("of another lease", |call, ends| {
            told(call, &format!("{} 5 ID", ends + 999_999))
        }),
        ("of a lease that is over", |call, _| told(call, "1 5 ID")),
        ("for nobody", |call, ends| {
            told(
                call,
                &format!("{ends} 5 00000000-0000-8000-8000-000000000000:0:x:1"),
            )
        }),
        ("for a later generation", |call, ends| {
            told(
                call,
                &format!("{ends} 5 {}", call.ids()[0].replacen(":0:", ":1:", 1)),
            )
        }),
        ("for nonsense", |call, ends| {
            told(call, &format!("{ends} 5 \u{0}\u{1}"))
        }),
        ("on another channel", |call, ends| {
            push(
                "redlock-fifo:000000000000",
                &format!("{ends} 5 {}", call.ids()[0]),
            )
        }),
        ("with a counter out of range", |call, ends| {
            told(call, &format!("{ends} {TOO_MUCH} ID"))
        }),
        ("with a negative counter", |call, ends| {
            told(call, &format!("{ends} -5 ID"))
        }),
        ("of a holder id that is far too long", |call, ends| {
            told(call, &format!("{ends} 5 {}", call.ids()[0].repeat(1000)))
        }),
    ];
    let waits = |forge: Forge| {
        requests(move |call| {
            let (number, ends) = (asked_number(call), now_millis() + 5000);
            let answer = format!("*5\r\n:2\r\n:{number}\r\n:0\r\n:{ends}\r\n:9000\r\n");
            let push = Act::Send(forge(call, ends));
            match call.script {
                Some(Script::Enqueue) => {
                    vec![push.clone(), Act::Send(call.envelope(&answer)), push]
                }
                // Whoever took the push for a vote would fence it next.
                Some(Script::Extend) => vec![Act::Send(call.envelope("*2\r\n:1\r\n:5\r\n"))],
                _ => vec![Act::Send(call.envelope("*1\r\n:0\r\n"))],
            }
        })
    };
    forged
        .into_iter()
        .map(|(name, forge)| (format!("a push {name}"), waits(forge)))
        .collect()
}

/// What makes a client ask again, again and again.
pub(crate) fn restless() -> Vec<(&'static str, Manner)> {
    let waits = |call: &Call, number: u64, ends: u64, left: u64| {
        let place = format!("*5\r\n:2\r\n:{number}\r\n:0\r\n:{ends}\r\n:{left}\r\n");
        Act::Send(call.envelope(&place))
    };
    let ends = || now_millis() + 5000;
    vec![
        (
            "nothing is here, ever",
            lines(move |call| vec![waits(call, asked_number(call), ends(), 9000)]),
        ),
        (
            "a number of its own",
            lines(move |call| vec![waits(call, 5, ends(), 9000)]),
        ),
        (
            "a holder that was due long ago",
            lines(move |call| vec![waits(call, asked_number(call), ends(), 0)]),
        ),
        (
            "a newer generation, ever",
            lines(|call| vec![Act::Send(call.envelope(":3\r\n"))]),
        ),
        (
            "no room, ever",
            lines(|call| vec![Act::Send(call.envelope("*2\r\n:64\r\n:9000\r\n"))]),
        ),
        // The one that gives a vote: with an honest one it would be a quorum.
        (
            "a waiter before us, ever",
            lines(|call| {
                let vote = format!("*4\r\n:1\r\n:{}\r\n:9000\r\n:1\r\n", asked_number(call));
                vec![Act::Send(call.envelope(&vote))]
            }),
        ),
        (
            "pushes of another lease",
            lines(move |call| {
                let ends = ends();
                let push = told(call, &format!("{} 5 ID", ends + 999_999));
                let mut acts = vec![waits(call, asked_number(call), ends, 9000)];
                for _ in 0..20 {
                    acts.extend([
                        Act::Pause(Duration::from_millis(1)),
                        Act::Send(push.clone()),
                    ]);
                }
                acts
            }),
        ),
    ]
}

/// Spoils what is asked of the line, and does the rest as it should.
pub(crate) fn lines(answer: impl Fn(&Call) -> Vec<Act> + Send + Sync + 'static) -> Manner {
    Arc::new(move |call| (call.script == Some(Script::Enqueue)).then(|| answer(call)))
}

/// The number of the first ticket that it names, or some other.
pub(crate) fn asked_number(call: &Call) -> u64 {
    let number = call
        .words
        .iter()
        .rev()
        .nth(2)
        .and_then(|number| number.parse().ok());
    number.unwrap_or(5)
}

/// Answers each request with the same bytes.
fn says(bytes: Vec<u8>) -> Manner {
    requests(move |_| vec![Act::Send(bytes.clone())])
}

/// Answers each request with a reply that is written in words.
fn framed(words: &'static str) -> Manner {
    requests(move |_| {
        let words = words.replace("NOW", &now_millis().to_string());
        vec![Act::Send(
            format!("{}\r\n", words.replace(' ', "\r\n")).into_bytes(),
        )]
    })
}

/// Spoils the requests and shakes hands as it should.
pub(crate) fn requests(answer: impl Fn(&Call) -> Vec<Act> + Send + Sync + 'static) -> Manner {
    Arc::new(move |call| call.is_request().then(|| answer(call)))
}

/// What would be a vote.
fn vote(call: &Call) -> Vec<u8> {
    call.envelope("*4\r\n:1\r\n:5\r\n:9000\r\n:0\r\n")
}

/// A message of a vote, on the channel where such come; `ID` stands for the waiter's.
fn told(call: &Call, payload: &str) -> Vec<u8> {
    push(&call.channel, &payload.replace("ID", call.ids()[0]))
}

/// A message to those who listen on `channel`.
pub(crate) fn push(channel: &str, payload: &str) -> Vec<u8> {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    format!(
        ">3\r\n{}{}{}",
        bulk("message"),
        bulk(channel),
        bulk(payload)
    )
    .into_bytes()
}
