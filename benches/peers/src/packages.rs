//! The peers from other languages: published packages, installed below the target folder.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    catalog::{Entry, Kind},
    driver::home,
};

/// The package, its version, and what it needs beside it. The two for Python need different versions of one.
const NODE: &[&str] = &["redlock@5.0.0-beta.2", "ioredis@5.8.2"];
const PYTHON: &[(&str, &str)] = &[("redlock-py", "1.0.8"), ("redlock-fifo", "1.3.0")];

fn folder(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    let target = program.parent().and_then(std::path::Path::parent);
    target
        .expect("it is below a target folder")
        .join("peer-packages")
        .join(name)
}

fn version(package: &str) -> &'static str {
    let found = PYTHON.iter().find(|(name, _)| *name == package);
    found.map_or("5.0.0-beta.2", |(_, version)| version)
}

/// The version of what is installed, or why nothing is.
pub(crate) fn installed(entry: &Entry) -> Result<String, String> {
    match folder(entry.package).join("installed").exists() {
        true => Ok(version(entry.package).to_owned()),
        false => Err("not installed: run with --with-packages".to_owned()),
    }
}

/// What runs the entry's script.
pub(crate) fn command(entry: &Entry) -> Result<Command, String> {
    installed(entry)?;
    let folder = folder(entry.package);
    Ok(match entry.kind {
        Kind::Python => {
            let mut command = Command::new(folder.join("bin/python"));
            command.arg(home().join("packages/worker.py"));
            command.arg(entry.package);
            command
        }
        _ => {
            let mut command = Command::new("node");
            command.arg(home().join("packages/worker.mjs")).arg(folder);
            command
        }
    })
}

/// Installs what is missing. A package that cannot be is told of and left out.
pub(crate) fn install() {
    let folder_of = |name: &str| folder(name).display().to_string();
    let npm = || {
        let at = folder_of("redlock");
        let words = ["install", "--no-audit", "--no-fund", "--prefix", &at];
        run("npm", &[&words, NODE].concat())
    };
    settle("redlock", npm);
    for (package, version) in PYTHON {
        let at = folder_of(package);
        settle(package, || {
            run("python3", &["-m", "venv", &at])?;
            let wanted = format!("{package}=={version}");
            run(&format!("{at}/bin/pip"), &["install", "--quiet", &wanted])
        });
    }
}

fn settle(package: &str, install: impl FnOnce() -> Result<(), String>) {
    let folder = folder(package);
    let mark = folder.join("installed");
    if mark.exists() {
        return;
    }
    let done = std::fs::create_dir_all(&folder)
        .map_err(|error| error.to_string())
        .and_then(|()| install())
        .and_then(|()| std::fs::write(mark, "").map_err(|error| error.to_string()));
    if let Err(error) = done {
        eprintln!("{package} was not installed: {error}");
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let ended = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}")),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
