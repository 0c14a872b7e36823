//! What `inspect` must do on every node.

use super::subject::{LEASE, Subject, TTL, on_both};

on_both!(
    nothing_is_known_of_an_unused_resource,
    the_holder_and_the_line_are_listed
);

async fn nothing_is_known_of_an_unused_resource(s: Subject) {
    let report = s.inspect().await;
    assert_eq!((report.holder, report.seq, report.waiting), (None, None, 0));
    assert!(report.line.is_empty());
}

async fn the_holder_and_the_line_are_listed(s: Subject) {
    let ids = [s.id(), s.id(), s.id()];
    let mut numbers = Vec::new();
    for id in &ids {
        numbers.push(s.join(id).await);
    }
    let report = s.inspect().await;
    let (holder, left) = report.holder.expect("held");
    assert_eq!(holder, **ids[0].text());
    assert!(left.is_some_and(|left| left <= TTL));
    assert_eq!(report.seq, Some(numbers[2]));
    assert_eq!(report.waiting, 2);
    let line: Vec<(&str, u64)> = report
        .line
        .iter()
        .map(|waiting| (&*waiting.id, waiting.number))
        .collect();
    assert_eq!(
        line,
        [
            (&**ids[1].text(), numbers[1]),
            (&**ids[2].text(), numbers[2])
        ]
    );
    let most = report.clock + LEASE.as_millis() as u64;
    assert!(
        report
            .line
            .iter()
            .all(|waiting| (report.clock..=most).contains(&waiting.waiter_end))
    );
}
