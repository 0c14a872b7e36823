//! Answers without end: they cost no memory without end, and are called what they are.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use redlock_fifo::{BuildError, LockError, NoQuorum, NodeError};

use crate::{
    fake::{Act, Call, Fake, Manner},
    misbehaviour,
    process::{Worker, patient, servers, urls},
};

/// Answers that never end: the start, and what it goes on with.
fn endless() -> [(&'static str, &'static str, String); 6] {
    let more = |part: &str| part.repeat((256 << 10) / part.len());
    [
        ("a text", "$9000000000000\r\n", more("x")),
        ("an array", "*9000000000000\r\n", more(":1\r\n")),
        ("a line", "+", more("x")),
        ("a number", ":", more("1")),
        // Nothing in it is too long by itself.
        (
            "a large array",
            "*1000\r\n",
            more(&format!("$5000\r\n{}\r\n", "x".repeat(5000))),
        ),
        ("a push", ">9000000000000\r\n+message\r\n", more("*0\r\n")),
    ]
}

fn flood(start: &str, more: &str) -> Vec<Act> {
    vec![Act::Send(start.into()), Act::Flood(more.into())]
}

/// In a process of its own, whose memory nobody else uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_takes_no_memory_without_end() {
    let honest = &servers(2);
    // All at once: each waits in the end until what the hostile node never confirmed has run out.
    let cases = endless().map(async |(name, start, more)| {
        let hostile = Fake::start(misbehaviour::requests(move |_| flood(start, &more))).await;
        let mut urls = urls(honest);
        urls.push(hostile.url().to_owned());
        let worker = tokio::task::spawn_blocking(move || {
            let mut worker = Worker::start_at(&urls, "lease=1000,grace=0");
            let before = worker.peak();
            worker.order(&format!("load {} 4 100", name.replace(' ', "-")));
            while worker.report()[0] != "done" {}
            (before, worker.peak())
        });
        let (before, after) = worker
            .await
            .unwrap_or_else(|_| panic!("{name}: the worker failed"));
        println!("{name}: {} MB, then {} MB", before >> 20, after >> 20);
        assert!(hostile.requests() > 0, "{name}: it was never asked");
        assert!(after < before + (64 << 20), "{name}: {} MB", after >> 20);
    });
    join_all(cases).await;
}

fn of_a_script(call: &Call) -> bool {
    call.is_request()
}

fn of_the_login(call: &Call) -> bool {
    call.words[0] == "HELLO"
}

fn of_the_handshake(call: &Call) -> bool {
    call.words[0] == "INFO"
}

/// What is said of `node`.
fn said(failed: &NoQuorum, node: &Fake) -> NodeError {
    let name = format!("{}/0", node.url());
    let failures = failed.failures().iter();
    let mut failures = failures.filter(|failure| failure.node() == name);
    let failure = failures.next();
    failure
        .unwrap_or_else(|| panic!("not of {name}: {failed}"))
        .error()
        .clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_said_to_be_too_long() {
    for (name, start, more) in endless() {
        for which in [of_a_script, of_the_login, of_the_handshake] {
            let more = more.clone();
            let manner: Manner = Arc::new(move |call| which(call).then(|| flood(start, &more)));
            let hostile = Fake::start(manner).await;
            let builder = patient().node(hostile.url()).restart_grace(Duration::ZERO);
            let connected = builder.connect().await;
            let refused = match connected {
                Ok(redlock) => {
                    let tried = redlock.try_lock("r", Duration::from_secs(1)).await;
                    redlock.shutdown().await;
                    let Err(LockError::NoQuorum(failed)) = tried else {
                        panic!("{name}: {tried:?}");
                    };
                    assert_eq!(said(&failed, &hostile), NodeError::TooLong, "{name}");
                    continue;
                }
                Err(refused) => refused,
            };
            let BuildError::NoQuorum(failed) = refused else {
                panic!("{name}: {refused:?}");
            };
            let down = NodeError::Down("an answer was too long".to_owned());
            assert_eq!(said(&failed, &hostile), down, "{name}");
        }
    }
}
