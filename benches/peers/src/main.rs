//! redlock-fifo beside other locks, in one run: same servers, same workloads, in turns.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- --with-packages
//! ```
//!
//! prints tables in Markdown and writes them, with plots, to `benches/peers/results`. It takes about ten minutes;
//! ratios count, not times, and only on a machine that does nothing else.
//!
//! | option | |
//! |---|---|
//! | `--quick` | under two minutes, to see that it works |
//! | `--only NAMES` | only these subjects or workloads (`uncontended`, `tasks`, `processes`, `redlock4j`, `hung`), separated by commas |
//! | `--with-packages` | installs the packages from npm and PyPI below the target folder; once |
//! | `--out FOLDER` | writes there instead |
//! | `--tune` | measures what other poll delays would do instead |
//!
//! Each subject runs in processes of its own (`worker`), which the parent (`driver`) orders about and ends when they
//! do not answer in time, so none can hang the run or lean on another one's runtime. What is compared and how each
//! is set is one list, `catalog`.

mod catalog;
mod driver;
mod outcome;
mod packages;
mod plot;
#[path = "../../../tests/common/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../../figures/stats.rs"]
#[allow(dead_code)]
mod stats;
mod subject;
mod subjects;
mod table;
mod worker;
mod workloads;

use std::{fs, path::PathBuf, process::exit, time::Instant};

use catalog::Entry;
use workloads::{Found, Plan, contended, sick, tune, uncontended};

const WORKLOADS: [(&str, fn(&Plan) -> Found); 5] = [
    ("uncontended", uncontended::run),
    ("tasks", contended::tasks),
    ("processes", contended::processes),
    ("redlock4j", contended::redlock4j),
    ("hung", sick::run),
];

#[derive(Default)]
struct Options {
    quick: bool,
    tune: bool,
    packages: bool,
    only: Vec<String>,
    out: Option<PathBuf>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--worker") {
        worker::work(&words[1..]);
    }
    let options = Options::parse(words).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(2)
    });
    if options.packages {
        packages::install();
    }
    let (known, plan) = options.plan();
    if options.tune {
        println!("{}", tune::run(&plan));
        return;
    }

    let started = Instant::now();
    let footer = table::footer(&known);
    let mut tables = String::new();
    let mut plots = Vec::new();
    for (name, run) in WORKLOADS {
        if options.wants_workload(name) {
            let found = run(&plan);
            tables.push_str(&found.tables);
            plots.extend(found.plots);
        }
    }
    let head = "# redlock-fifo beside other locks\n";
    let report = format!("{head}{}{tables}{footer}", table::subjects(&known));
    println!("{report}");

    let out = options
        .out
        .unwrap_or_else(|| driver::home().join("results"));
    let write = |name: String, text: String| {
        let written = fs::create_dir_all(&out).and_then(|()| fs::write(out.join(&name), text));
        if let Err(error) = written {
            eprintln!("{name} was not written: {error}");
        }
    };
    write("results.md".to_owned(), report);
    for (name, plot) in plots {
        write(format!("{name}.svg"), plot.svg());
    }
    eprintln!("{:.0} s in all", started.elapsed().as_secs_f64());
}

impl Options {
    fn parse(words: Vec<String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--tune" => options.tune = true,
                "--with-packages" => options.packages = true,
                "--only" => options
                    .only
                    .extend(value()?.split(',').map(|name| name.trim().to_owned())),
                "--out" => options.out = Some(value()?.into()),
                _ => {
                    return Err(format!(
                        "{word} is no option: see benches/peers/src/main.rs"
                    ));
                }
            }
        }
        let known = |name: &&String| {
            let is_workload = WORKLOADS.iter().any(|(workload, _)| workload == name);
            is_workload || catalog::ALL.iter().any(|entry| entry.name == *name)
        };
        match options.only.iter().find(|name| !known(name)) {
            Some(stranger) => Err(format!("{stranger} is no subject and no workload")),
            None => Ok(options),
        }
    }

    fn wants_workload(&self, name: &str) -> bool {
        let mut named = WORKLOADS
            .iter()
            .filter(|(workload, _)| self.only.iter().any(|word| word == workload));
        named.clone().next().is_none() || named.any(|(workload, _)| *workload == name)
    }

    /// Those asked for, and of them those that can run.
    fn plan(&self) -> (Vec<&'static Entry>, Plan) {
        let named = |entry: &&Entry| self.only.iter().any(|word| word == entry.name);
        let all = catalog::ALL.iter().any(|entry| named(&entry));
        let wanted = catalog::ALL.iter().filter(|entry| !all || named(entry));
        let known: Vec<_> = wanted.collect();
        let runs = |entry: &&'static Entry| table::version(entry).is_ok();
        let entries = known.iter().copied().filter(runs).collect();
        let quick = self.quick;
        (known, Plan { entries, quick })
    }
}
