//! The report: tables in Markdown, with what they were measured on.

use std::{fs, process::Command};

use crate::{
    catalog::{self, Entry, Kind},
    outcome::MARGIN,
    packages,
    subject::{NODE_TIMEOUT, TTL},
};

pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("\n### {title}\n\n| {} |\n", head.join(" | "));
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

/// A subject's name; ours stands out.
pub(crate) fn name(entry: &Entry) -> String {
    match entry.name {
        "redlock-fifo" => format!("**{}**", entry.name),
        other => other.to_owned(),
    }
}

/// The version that was run, or why none was.
pub(crate) fn version(entry: &Entry) -> Result<String, String> {
    match entry.kind {
        Kind::Rust => Ok(catalog::crate_version(entry.package)),
        Kind::Node | Kind::Python => packages::installed(entry),
    }
}

/// Who was compared, and how each was set.
pub(crate) fn subjects(entries: &[&Entry]) -> String {
    let row = |entry: &&Entry| {
        let kind = match entry.kind {
            Kind::Rust => "Rust",
            Kind::Node => "npm",
            Kind::Python => "Python",
        };
        let waiting = match (entry.poll, entry.waiting) {
            (ms, "polls") => format!("polls, {ms} ms"),
            (_, other) => other.to_owned(),
        };
        let about = match version(entry) {
            Ok(version) if entry.is_reference() => format!("redis {version}"),
            Ok(version) => version,
            Err(why) => why,
        };
        vec![
            name(entry),
            kind.to_owned(),
            about,
            entry.order.to_owned(),
            if entry.quorum {
                "majority of independent nodes"
            } else {
                "one node only"
            }
            .to_owned(),
            entry.extends.to_owned(),
            waiting,
            entry.note.to_owned(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let head = [
        "subject",
        "language",
        "version",
        "order",
        "servers",
        "while held",
        "waiting",
        "settings",
    ];
    let mut text = table(
        "Who was compared, each with its best settings",
        &head,
        &rows,
    );
    text.push_str(&format!(
        "\nAlike for all: ttl {} s; a node may take {} ms where that can be set; TCP_NODELAY where that can be set; \
         waiters never give up; one client per process. All that poll do so every 5 ms unless said otherwise; `--tune` measures other delays.\n\n\
         *Overtook an earlier one*: the share of acquisitions by somebody who asked at least {} ms after another one \
         and was served before it. *Two holders*: acquisitions that began before the one before had ended. \
         A longest wait counts those who still waited at the end.\n",
        TTL.as_secs(),
        NODE_TIMEOUT.as_millis(),
        MARGIN.as_millis(),
    ));
    text
}

/// The machine and the versions.
pub(crate) fn footer(entries: &[&Entry]) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let server = std::env::var("REDIS_SERVER_BIN").unwrap_or_else(|_| "redis-server".to_owned());
    let mut text = format!(
        "\n{model}, {cores} cores, {}; servers, clients and workers share them, over TCP on the loopback \
         interface. {}; {}",
        first_line("uname", &["-sr"]),
        first_line(&server, &["--version"]).replace("Redis server ", "redis-server "),
        first_line("rustc", &["--version"]),
    );
    for (kind, program) in [(Kind::Node, "node"), (Kind::Python, "python3")] {
        let ran = |entry: &&&Entry| entry.kind == kind && version(entry).is_ok();
        if entries.iter().find(ran).is_some() {
            text.push_str(&format!(
                "; {program} {}",
                first_line(program, &["--version"])
            ));
        }
    }
    let commit = first_line(
        "git",
        &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always"],
    );
    text.push_str(&format!(
        "; redlock-fifo at {commit}. {}.\n",
        first_line("date", &["-u", "+%Y-%m-%d"])
    ));
    text
}

fn first_line(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.unwrap_or_default();
    line.lines().next().unwrap_or("unknown").trim().to_owned()
}
