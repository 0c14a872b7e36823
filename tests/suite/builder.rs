//! What the builder refuses, before anything is sent.

use std::time::Duration;

use redlock_fifo::{
    ArgumentError, BuildError, FifoRedlock, FifoRedlockBuilder, LockError, MemoryCluster,
};

const TTL: Duration = Duration::from_secs(10);

async fn refusal(builder: FifoRedlockBuilder) -> BuildError {
    builder.connect().await.expect_err("it is refused")
}

fn on(urls: &[&str]) -> FifoRedlockBuilder {
    urls.iter()
        .fold(FifoRedlock::builder(), FifoRedlockBuilder::node)
}

#[tokio::test(start_paused = true)]
async fn no_nodes_are_too_few() {
    assert_eq!(refusal(FifoRedlock::builder()).await, BuildError::NoNodes);
    let empty = MemoryCluster::new(0);
    let builder = FifoRedlock::builder().memory(&empty);
    assert_eq!(refusal(builder).await, BuildError::NoNodes);
    let none = FifoRedlock::connect([""; 0]).await;
    assert!(matches!(none, Err(BuildError::NoNodes)));
}

#[tokio::test(start_paused = true)]
async fn one_address_is_one_node_however_it_is_spelt() {
    for twins in [
        ["redis://a", "redis://a"],
        ["redis://a", "redis://A:6379/"],
        ["redis://user:secret@a", "redis://a/3?protocol=resp2"],
        ["redis+unix:///run/a", "unix:///run/a?db=2"],
    ] {
        let error = refusal(on(&["redis://b", twins[0], twins[1]])).await;
        assert!(
            matches!(
                error,
                BuildError::SameAddress {
                    first: 1,
                    second: 2,
                    ..
                }
            ),
            "{twins:?}: {error:?}"
        );
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }
    let (one, other) = (MemoryCluster::new(2), MemoryCluster::new(3));
    let builder = FifoRedlock::builder()
        .memory(&one)
        .memory(&other)
        .memory(&other.clone());
    let error = refusal(builder).await;
    assert!(
        matches!(
            error,
            BuildError::SameAddress {
                first: 2,
                second: 5,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_url_that_cannot_be_read_is_named_by_its_place_and_not_repeated() {
    for url in [
        "",
        "cat://hog",
        "redis://",
        "redis://user:secret@:99999",
        "redis://user:secret@host:port",
        "redis://user:secret@host/nonsense",
        "http://user:secret@host",
        "user:secret@host",
    ] {
        let error = refusal(on(&["redis://a", url])).await;
        assert!(
            matches!(error, BuildError::InvalidUrl { node: 1, .. }),
            "{url}: {error:?}"
        );
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }
    let builder = on(&["redis://user:secret@a"]);
    assert!(!format!("{builder:?}").contains("secret"), "{builder:?}");
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_work_are_named() {
    let cluster = MemoryCluster::new(3);
    let base = || FifoRedlock::builder().memory(&cluster);
    for (name, builder) in [
        ("retry_count", base().retry_count(0)),
        ("fifo_retry_count", base().fifo_retry_count(0)),
        ("fifo_queue_length", base().fifo_queue_length(0)),
        (
            "fifo_ephemeral_ttl",
            base().fifo_ephemeral_ttl(Duration::ZERO),
        ),
        ("node_timeout", base().node_timeout(Duration::ZERO)),
        ("clock_drift_factor", base().clock_drift_factor(0.6)),
        ("max_hold", base().max_hold(Duration::ZERO)),
        ("client_name", base().client_name("")),
        ("client_name", base().client_name("x".repeat(129))),
        ("key_prefix", base().key_prefix("x".repeat(16 * 1024))),
    ] {
        let error = refusal(builder).await;
        let BuildError::InvalidSetting { setting, .. } = error else {
            panic!("{name}: {error:?}");
        };
        assert_eq!(setting, name);
    }
    let mixed = base().node("redis://a");
    assert_eq!(refusal(mixed).await, BuildError::MixedNodes);
}

#[tokio::test(start_paused = true)]
async fn bad_arguments_are_refused_before_anything_is_sent() {
    let cluster = MemoryCluster::new(3);
    let client = FifoRedlock::builder()
        .memory(&cluster)
        .connect()
        .await
        .unwrap();
    let long = "x".repeat(16 * 1024 + 1);
    let names = [
        "",
        &long,
        "a{b",
        "a}b{c",
        "r:redlock-fifo:queue",
        "{r}:redlock-fifo:seq",
    ];
    for name in names {
        let outcome = client.lock(name, TTL).await;
        assert!(
            matches!(outcome, Err(LockError::Argument(_))),
            "{}: {outcome:?}",
            &name[..name.len().min(40)]
        );
    }
    let ttls = [
        (Duration::ZERO, false),
        (Duration::from_millis(2), false),
        (Duration::MAX, true),
    ];
    for (ttl, long) in ttls {
        let Err(LockError::Argument(error)) = client.lock("r", ttl).await else {
            panic!("{ttl:?} is no ttl");
        };
        match error {
            ArgumentError::TtlTooShort { .. } => assert!(!long),
            ArgumentError::TtlTooLong { .. } => assert!(long),
            other => panic!("{ttl:?}: {other:?}"),
        }
    }
    assert!(cluster.nodes().all(|node| node.calls() == 0));
    assert!(client.lock("x".repeat(16 * 1024), TTL).await.is_ok());
}
