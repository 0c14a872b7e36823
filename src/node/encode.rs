//! Calls as commands: one `EVALSHA` a batch, as the headers of `scripts/*.lua` lay down.

use redis::{Cmd, Value, cmd};

use super::reply;
use crate::message::{Command, MAX_REPORTED, Reply, Report, millis_up};
use crate::resource::Resource;

/// The scripts that a node must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Enqueue,
    Extend,
    Release,
    Inspect,
    Handshake,
}

impl Script {
    /// All scripts, each at its index.
    pub(super) const ALL: [Self; 5] = [
        Self::Enqueue,
        Self::Extend,
        Self::Release,
        Self::Inspect,
        Self::Handshake,
    ];

    /// The command that loads the script.
    pub(super) fn load(self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.text());
        load
    }

    fn text(self) -> &'static str {
        macro_rules! settled {
            ($file:literal) => {
                concat!(include_str!("../scripts/settle.lua"), include_str!($file))
            };
        }
        match self {
            Self::Enqueue => settled!("../scripts/enqueue.lua"),
            Self::Extend => settled!("../scripts/extend.lua"),
            Self::Release => settled!("../scripts/release.lua"),
            Self::Inspect => include_str!("../scripts/inspect.lua"),
            Self::Handshake => include_str!("../scripts/handshake.lua"),
        }
    }
}

/// The names that a server gave the scripts.
#[derive(Clone, Debug)]
pub(super) struct Shas([Box<str>; 5]);

impl Shas {
    /// The names of [`Script::ALL`], in that order.
    pub(super) fn new(names: [Box<str>; 5]) -> Self {
        Self(names)
    }

    /// The command that runs `script` on `keys`; its arguments are still to come.
    pub(super) fn run<'a>(
        &self,
        script: Script,
        keys: impl Iterator<Item = &'a str>,
        count: usize,
        args: usize,
    ) -> Cmd {
        let [enqueue, extend, release, inspect, handshake] = &self.0;
        let sha = match script {
            Script::Enqueue => enqueue,
            Script::Extend => extend,
            Script::Release => release,
            Script::Inspect => inspect,
            Script::Handshake => handshake,
        };
        let parts = 3 + count + args;
        // The name of the script and an id are longer, the rest is shorter.
        let mut run = Cmd::with_capacity(parts, 24 * parts);
        run.arg("EVALSHA").arg(&**sha).arg(count);
        for key in keys {
            run.arg(key);
        }
        run
    }
}

/// What the arguments of every mutating call start with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Milliseconds of the node's clock.
    pub(super) deadline: u64,
    pub(super) seed: u64,
    pub(super) extra: u64,
    pub(super) floor: u64,
    /// Milliseconds, as are the next.
    pub(super) keep: u64,
    pub(super) unheard: u64,
    pub(super) waiter_ttl: u64,
}

/// A command and how its answer is read.
pub(super) struct Encoded<T> {
    pub(super) cmd: Cmd,
    /// How many answers it asks for.
    pub(super) asked: Asked,
    pub(super) decode: fn(u64, &[Value]) -> Option<T>,
}

/// What comes after the clock in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// One answer for each request, or none if the deadline has passed.
    InTime { answers: usize },
    /// One answer for each request.
    AnyTime { answers: usize },
    /// As many values as there are.
    Open,
}

/// How the answers to a call are read.
type Decode = fn(u64, &[Value]) -> Option<Vec<Reply>>;

impl Encoded<Vec<Reply>> {
    /// Commands of one kind.
    pub(super) fn call(shas: &Shas, header: Header, batch: &[Command]) -> Self {
        let (script, args, decode): (Script, usize, Decode) = match batch.first() {
            Some(Command::Extend(_)) => (Script::Extend, 4, reply::extended),
            Some(Command::Release(_)) => (Script::Release, 1, reply::released),
            _ => (Script::Enqueue, 4, reply::standings),
        };
        let answers = batch.len();
        // A release is carried out at any time: it takes nothing.
        let asked = match script {
            Script::Release => Asked::AnyTime { answers },
            _ => Asked::InTime { answers },
        };
        let deadline = match asked {
            Asked::InTime { .. } => header.deadline,
            _ => 0,
        };
        let header = Header { deadline, ..header };
        let resources = batch.iter().map(Command::resource);
        let mut cmd = start(shas, script, header, resources, 7 + args * answers);
        if script == Script::Enqueue {
            cmd.arg(header.waiter_ttl);
        }
        for command in batch {
            add(&mut cmd, command);
        }
        Self { cmd, asked, decode }
    }
}

/// The arguments of one command.
fn add(cmd: &mut Cmd, command: &Command) {
    match command {
        Command::Enqueue(ask) => {
            cmd.arg(&**ask.id.text());
            optional(cmd, ask.number);
            cmd.arg(millis_up(ask.ttl));
            optional(cmd, ask.room);
        }
        Command::Extend(ask) => {
            cmd.arg(&**ask.id.text())
                .arg(millis_up(ask.ttl))
                .arg(ask.token)
                .arg(u8::from(ask.repair));
        }
        Command::Release(ask) => {
            cmd.arg(&**ask.id.text());
        }
    }
}

impl Encoded<Report> {
    pub(super) fn inspect(shas: &Shas, resource: &Resource) -> Self {
        let keys = resource.keys();
        let mut cmd = shas.run(Script::Inspect, keys.into_iter(), keys.len(), 1);
        cmd.arg(MAX_REPORTED);
        Self {
            cmd,
            asked: Asked::Open,
            decode: reply::report,
        }
    }
}

/// The command up to the header.
fn start<'a>(
    shas: &Shas,
    script: Script,
    header: Header,
    resources: impl ExactSizeIterator<Item = &'a Resource>,
    args: usize,
) -> Cmd {
    let count = 4 * resources.len();
    let mut cmd = shas.run(script, resources.flat_map(Resource::keys), count, args);
    cmd.arg(header.deadline)
        .arg(header.seed)
        .arg(header.extra)
        .arg(header.floor)
        .arg(header.keep)
        .arg(header.unheard);
    cmd
}

fn optional(cmd: &mut Cmd, value: Option<u64>) {
    match value {
        Some(value) => cmd.arg(value),
        None => cmd.arg(""),
    };
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use redis::Arg;

    use super::*;
    use crate::{
        holder::{ClientId, HolderId},
        message::{Enqueue, Release},
        runtime::rng::Rng,
    };

    const HEADER: Header = Header {
        deadline: 11,
        seed: 12,
        extra: 13,
        floor: 14,
        keep: 15,
        unheard: 16,
        waiter_ttl: 17,
    };

    fn shas() -> Shas {
        Shas::new(["en", "ex", "re", "in", "ha"].map(Into::into))
    }

    fn words(cmd: &Cmd) -> Vec<String> {
        let word = |arg| match arg {
            Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
            _ => panic!("a cursor"),
        };
        cmd.args_iter().map(word).collect()
    }

    fn enqueue(name: &str, number: Option<u64>, room: Option<u64>) -> Enqueue {
        Enqueue {
            resource: Arc::new(Resource::new("", name).expect("valid")),
            id: HolderId::new(Rng.uuid(), &ClientId::new(Rng.uuid(), "me", true), 7),
            number,
            ttl: Duration::from_micros(1500),
            room,
        }
    }

    #[test]
    fn a_batch_is_one_command_with_a_group_a_request() {
        let batch = [enqueue("a", None, Some(3)), enqueue("b", Some(9), None)];
        let commands = batch.clone().map(Command::Enqueue);
        let request = Encoded::call(&shas(), HEADER, &commands);
        let words = words(&request.cmd);
        assert_eq!(words[..3], ["EVALSHA", "en", "8"]);
        assert_eq!(words[3..7], batch[0].resource.keys()[..]);
        assert_eq!(words[7..11], batch[1].resource.keys()[..]);
        assert_eq!(words[11..18], ["11", "12", "13", "14", "15", "16", "17"]);
        assert_eq!(words[18..22], [&**batch[0].id.text(), "", "2", "3"]);
        assert_eq!(words[22..], [&**batch[1].id.text(), "9", "2", ""]);
    }

    #[test]
    fn a_release_has_no_deadline() {
        let Enqueue { resource, id, .. } = enqueue("a", None, None);
        let release = Command::Release(Release { resource, id });
        let request = Encoded::call(&shas(), HEADER, &[release]);
        assert_eq!(
            words(&request.cmd)[7..13],
            ["0", "12", "13", "14", "15", "16"]
        );
    }
}
