//! The side of a worker: a process with one client of one subject, which takes orders line by line.
//!
//! An order is `run RESOURCE FRESH TASKS HOLD_US START_NS END_NS CYCLES`. The answer has a line for each
//! acquisition (`c TASK ASKED SERVED DONE`), for each task that still waits at the end (`p TASK ASKED`) and for
//! each failure (`e TASK MESSAGE`), and `done`. The scripts in `packages` speak the same.

use std::{
    io::{BufWriter, Write, stdin, stdout},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    subject::{Cycle, Subject, clock},
    subjects,
};

/// Longer than any of them takes to connect to servers that answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `NAME POLL_MS URL…`
pub(crate) fn work(words: &[String]) -> ! {
    let poll = Duration::from_millis(words[1].parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let connecting = subjects::connect(&words[0], &words[2..], poll);
    let connected = runtime.block_on(async { timeout(PATIENCE, connecting).await });
    let subject = match connected {
        Ok(Ok(subject)) => subject,
        Ok(Err(error)) => fail(&error),
        Err(_) => fail("it did not connect in time"),
    };
    println!("ready");
    for line in stdin().lines().map_while(Result::ok) {
        let order = Order::parse(&line);
        let told = runtime.block_on(order.run(&subject));
        let mut out = BufWriter::new(stdout().lock());
        for line in told {
            writeln!(out, "{line}").expect("the parent listens");
        }
        writeln!(out, "done").expect("the parent listens");
    }
    // Not by return: that would wait for threads that hang.
    std::process::exit(0)
}

fn fail(error: &str) -> ! {
    println!("failed {}", error.replace('\n', " "));
    std::process::exit(0)
}

struct Order {
    resource: String,
    fresh: bool,
    tasks: usize,
    span: Duration,
    start: u64,
    end: u64,
    cycles: usize,
}

/// What a task has to tell.
#[derive(Default)]
struct Told {
    cycles: Vec<Cycle>,
    errors: Vec<String>,
    /// Since when it has been waiting.
    asked: Option<u64>,
}

impl Order {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |place: usize| -> u64 { words[place].parse().expect("a number") };
        Self {
            resource: words[1].to_owned(),
            fresh: number(2) == 1,
            tasks: number(3) as usize,
            span: Duration::from_micros(number(4)),
            start: number(5),
            end: number(6),
            cycles: number(7) as usize,
        }
    }

    async fn run(self, subject: &Arc<dyn Subject>) -> Vec<String> {
        let left = |to: u64| Duration::from_nanos(to.saturating_sub(clock()));
        sleep(left(self.start)).await;
        let order = Arc::new(self);
        let told: Vec<Arc<Mutex<Told>>> = (0..order.tasks).map(|_| Arc::default()).collect();
        let mut running = JoinSet::new();
        for told in &told {
            running.spawn(turns(order.clone(), subject.clone(), told.clone()));
        }
        let all = async { while running.join_next().await.is_some() {} };
        let _late = timeout(left(order.end), all).await;
        running.abort_all();
        told.iter().enumerate().flat_map(lines).collect()
    }
}

async fn turns(order: Arc<Order>, subject: Arc<dyn Subject>, told: Arc<Mutex<Told>>) {
    for turn in 0..order.cycles {
        let asked = clock();
        if asked >= order.end {
            return;
        }
        told.lock().expect("not poisoned").asked = Some(asked);
        let resource = match order.fresh {
            true => format!("{}:{turn}", order.resource),
            false => order.resource.clone(),
        };
        let result = subject.cycle(&resource, order.span, order.end).await;
        let failed = result.is_err();
        {
            let mut told = told.lock().expect("not poisoned");
            if clock() >= order.end && failed {
                return;
            }
            told.asked = None;
            match result {
                Ok(cycle) => {
                    told.errors.extend(cycle.trouble.clone());
                    told.cycles.push(cycle);
                }
                Err(error) => told.errors.push(error),
            }
        }
        if failed {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn lines((task, told): (usize, &Arc<Mutex<Told>>)) -> Vec<String> {
    let told = told.lock().expect("not poisoned");
    let cycle = |one: &Cycle| format!("c {task} {} {} {}", one.asked, one.served, one.done);
    let error = |text: &String| format!("e {task} {}", text.replace('\n', " "));
    let mut lines: Vec<String> = told.cycles.iter().map(cycle).collect();
    lines.extend(told.errors.iter().map(error));
    lines.extend(told.asked.map(|asked| format!("p {task} {asked}")));
    lines
}
