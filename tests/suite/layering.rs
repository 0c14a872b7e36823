//! Imports run downward only, and few files may do what is dangerous.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// From top to bottom; what stands in one line may import each other only within `node`, `client` and `request`.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    // A client names its builder, and the builder makes a client.
    &["builder", "redlock"],
    &["ticket"],
    &["acquire"],
    &["guard"],
    &["client"],
    &["inspection", "node"],
    &["telemetry"],
    // The core: it names no node, no clock, no telemetry, and nothing of tokio's.
    &["request"],
    &["servers"],
    &["config", "event", "message"],
    &["holder", "quorum", "resource", "runtime"],
    &["error", "time"],
];

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("{module} has no layer"))
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                let text = fs::read_to_string(&path).unwrap();
                // Tests may use what they like.
                let text = text
                    .split("#[cfg(test)]\nmod tests")
                    .next()
                    .unwrap()
                    .to_owned();
                found.push((name, text));
            }
        }
    }
    found
}

/// The modules that a file names in its `use crate::` lines and paths.
fn imports(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut word) = (0, String::new());
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(letter),
                    _ => {}
                }
            }
            modules.push(word);
        } else {
            modules.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    let first = |path: &String| {
        path.trim()
            .split("::")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    modules
        .iter()
        .map(first)
        .filter(|module| !module.is_empty())
        .collect()
}

#[test]
fn imports_run_downward_only() {
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        // Links in the docs may point anywhere.
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        for import in imports(&code) {
            let inside = module == import
                || matches!(
                    (module, &*import),
                    ("builder", "redlock") | ("redlock", "builder")
                );
            assert!(
                inside || layer(&import) > layer(module),
                "{file} imports {import}"
            );
        }
    }
}

#[test]
fn only_the_redis_nodes_name_the_driver() {
    for (file, text) in sources() {
        let allowed = (file.starts_with("node/")
            && !["node/memory", "node/table/"]
                .iter()
                .any(|kind| file.starts_with(kind)))
            || file == "builder/mod.rs";
        let names = text.contains("use redis::") || text.contains("redis::aio");
        assert!(allowed || !names, "{file} names the driver");
    }
}

/// The core decides, and does nothing: it can be run without a runtime.
#[test]
fn the_core_waits_for_nothing_locks_nothing_and_reads_no_clock() {
    let core = [
        "request/",
        "servers/",
        "config/",
        "quorum.rs",
        "message.rs",
        "event.rs",
        "time.rs",
    ];
    for (file, text) in sources() {
        if core.iter().any(|of| file.starts_with(of)) {
            for outside in [
                "tokio", "tracing", "Mutex", "Atomic", "async", "Clock", "Instant",
            ] {
                assert!(!text.contains(outside), "{file} names {outside}");
            }
        }
    }
}

#[test]
fn few_files_spawn() {
    for (file, text) in sources() {
        let allowed = file == "runtime/task.rs";
        assert!(allowed || !text.contains("tokio::spawn"), "{file} spawns");
        let allowed = ["node/link.rs", "node/connection.rs"].contains(&&*file);
        assert!(allowed || !text.contains("Owned::start"), "{file} spawns");
        let allowed = ["client/mod.rs", "node/memory/link.rs"].contains(&&*file);
        assert!(allowed || !text.contains("task::spawn"), "{file} spawns");
    }
}
