//! The page `operating`: its lines of `redis-cli`, run as they stand there.
//!
//! A shell takes each block apart, as it would for an operator, but with a function in the place of
//! `redis-cli`, which tells the words it was called with. They are then sent over the driver.

use std::process::Command;

use redis::{FromRedisValue, Value};

use crate::server::Server;

const PAGE: &str = include_str!("../../../src/docs/operating.md");

/// Tells how many words there are, and each of them.
const INSTEAD: &str = r#"redis_cli() { printf '%s\0' "$#" "$@"; }; echo() { :; }"#;

/// What the placeholders of the page stand for.
pub(super) struct Vars<'a> {
    pub(super) name: &'a str,
    pub(super) holder: &'a str,
    pub(super) waiter: &'a str,
}

impl<'a> Vars<'a> {
    pub(super) fn named(name: &'a str) -> Self {
        Self {
            name,
            holder: "",
            waiter: "",
        }
    }
}

/// One line of the page, for one server.
#[derive(Debug)]
pub(super) struct Line {
    /// The place of the server.
    node: usize,
    /// The command without `redis-cli -u NODE`.
    pub(super) words: Vec<String>,
}

/// What a line was answered.
#[derive(Debug)]
pub(super) struct Answer(pub(super) Value);

impl Answer {
    pub(super) fn read<T: FromRedisValue>(&self) -> T {
        redis::from_redis_value(self.0.clone()).expect("an answer of this type")
    }
}

impl Line {
    fn new(servers: &[Server], command: &[String]) -> Self {
        let [option, url, words @ ..] = command else {
            panic!("not a command: {command:?}");
        };
        assert_eq!(option, "-u", "{command:?}");
        let node = servers.iter().position(|server| server.url() == *url);
        let words = match words {
            // What the option does, in many calls.
            [scan, option, pattern] if scan == "--scan" && option == "--pattern" => {
                vec!["KEYS".to_owned(), pattern.clone()]
            }
            words => words.to_vec(),
        };
        Self {
            node: node.unwrap_or_else(|| panic!("not one of the nodes: {url}")),
            words,
        }
    }

    pub(super) fn run(&self, servers: &[Server]) -> Answer {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        Answer(servers[self.node].command(&words))
    }
}

/// Runs the block with the place `place`, from 0, of the section `heading` on `servers`.
pub(super) fn run(servers: &[Server], heading: &str, place: usize, vars: &Vars<'_>) -> Vec<Answer> {
    let lines = lines(servers, heading, place, vars);
    lines.iter().map(|line| line.run(servers)).collect()
}

/// What that block would have `redis-cli` do.
pub(super) fn lines(servers: &[Server], heading: &str, place: usize, vars: &Vars<'_>) -> Vec<Line> {
    let under = blocks().into_iter().filter(|(other, _)| *other == heading);
    let (_, block) = under.clone().nth(place).unwrap_or_else(|| {
        panic!("{heading} has {} blocks", under.count());
    });
    let words = words(servers, block, vars);
    let commands = commands(&words);
    assert!(!commands.is_empty(), "no commands in {block}");
    let line = |command| Line::new(servers, command);
    commands.into_iter().map(line).collect()
}

/// All blocks for a shell, each with the heading it stands under.
pub(super) fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for section in PAGE.split("\n## ") {
        let heading = section.lines().next().expect("a heading");
        let parts = section.split("\n```sh\n").skip(1);
        let block = |rest: &'static str| rest.split("\n```").next().expect("its end");
        found.extend(parts.map(|rest| (heading, block(rest))));
    }
    found
}

fn words(servers: &[Server], block: &str, vars: &Vars<'_>) -> Vec<String> {
    let (_, setup) = blocks()[0];
    let key = setup.lines().find(|line| line.starts_with("KEY="));
    let key = key.expect("the page sets KEY");
    let block = block.replace("redis-cli", "redis_cli");
    let script = format!("set -eu\n{INSTEAD}\n{key}\n{block}\n");
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("NODES", urls.join(" "))
        .env("NAME", vars.name)
        .env("HOLDER", vars.holder)
        .env("WAITER", vars.waiter)
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}{script}");
    let words = String::from_utf8(output.stdout).expect("a text");
    words.split_terminator('\0').map(str::to_owned).collect()
}

/// The words of each call.
fn commands(mut words: &[String]) -> Vec<&[String]> {
    let mut found = Vec::new();
    while let [count, rest @ ..] = words {
        let (command, others) = rest.split_at(count.parse().expect("a count"));
        found.push(command);
        words = others;
    }
    found
}
