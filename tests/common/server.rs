//! Real servers for tests.
//!
//! Each is a process of its own with a fresh directory and a Unix socket there, keeps nothing on disk and
//! is killed on drop. A shell stands between: it waits for the end of its input, which comes with the end
//! of the test process however that ends, and then kills the server, so none is ever left behind.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use redis::Value;

/// How often and how many times a server that starts is asked whether it is there: 20 s.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS: usize = 10_000;

const WRAPPER: &str =
    r#""$@" </dev/null >/dev/null 2>&1 & echo $!; cat >/dev/null; kill -9 $!; wait"#;

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    args: Vec<String>,
    port: Option<u16>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    wrapper: Child,
    pid: String,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments for `redis-server`.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let server = Self::new(args, None);
        assert!(
            server.launch(),
            "the server did not start: {}",
            server.log()
        );
        server
    }

    /// A server that listens on a free port as well.
    pub(crate) fn start_tcp(args: &[&str]) -> Self {
        Self::on_a_free_port(|port| Self::new(args, Some(port))).0
    }

    /// A server that listens as well on a free port that its option `option` names. Nobody looks whether it
    /// answers there.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub(crate) fn start_at(option: &str, args: &[&str]) -> (Self, u16) {
        Self::on_a_free_port(|port| Self::new(&[args, &[option, &port.to_string()]].concat(), None))
    }

    fn on_a_free_port(prepare: impl Fn(u16) -> Self) -> (Self, u16) {
        for _ in 0..10 {
            // Somebody else may take the port in between; then it is another one's turn.
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            let server = prepare(port);
            if server.launch() {
                return (server, port);
            }
        }
        panic!("no server could be started on a port");
    }

    /// Its URL: of the port if it has one, else of the socket.
    pub(crate) fn url(&self) -> String {
        match self.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => self.socket_url(),
        }
    }

    /// The URL of its socket.
    pub(crate) fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&self) {
        let running = self.running.lock().expect("not poisoned").take();
        if let Some(mut running) = running {
            drop(running.wrapper.stdin.take());
            running.wrapper.wait().expect("the wrapper ends");
        }
    }

    /// Starts it again at the same place, empty; kills it first where it runs.
    pub(crate) fn restart(&self) {
        self.kill();
        assert!(self.launch(), "the server did not restart: {}", self.log());
    }

    /// Hangs it: it keeps its connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs a command over a connection of its own. A refusal is a panic.
    pub(crate) fn command(&self, words: &[&str]) -> Value {
        let (name, args) = words.split_first().expect("a command");
        let client = redis::Client::open(self.socket_url()).expect("a url");
        let mut connection = client.get_connection().expect("a connection");
        let answer = redis::cmd(name).arg(args).query(&mut connection);
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same for a command that answers with a number.
    pub(crate) fn number(&self, words: &[&str]) -> i64 {
        redis::from_redis_value(self.command(words)).expect("a number")
    }

    /// The same for a command that answers with a text.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.command(words)).expect("a text")
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> =
            redis::from_redis_value(self.command(&["KEYS", "*"])).expect("keys");
        keys.sort();
        keys
    }

    /// How often each command was called.
    pub(crate) fn commandstats(&self) -> BTreeMap<String, u64> {
        let stats = self.text(&["INFO", "commandstats"]);
        let calls = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let (calls, _) = rest.split_once(',')?;
            Some((name.to_owned(), calls.parse().ok()?))
        };
        stats.lines().filter_map(calls).collect()
    }

    fn new(args: &[&str], port: Option<u16>) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let place = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("redlock-fifo-{}-{place}", std::process::id()));
        // One of a former process with the same id may have been left.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        // A sentinel keeps what it knows in its configuration, and does not start without one.
        fs::write(dir.join("conf"), "").expect("a file");
        Self {
            dir,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            port,
            running: Mutex::default(),
        }
    }

    /// Whether the server runs and answers now.
    fn launch(&self) -> bool {
        let _ = fs::remove_file(self.dir.join("pid"));
        let program = env::var("REDIS_SERVER_BIN").unwrap_or_else(|_| "redis-server".to_owned());
        let found = Command::new(&program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        assert!(
            found.is_ok(),
            "these tests need a real server and `{program}` cannot be run: install redis-server, \
             or name another in REDIS_SERVER_BIN"
        );
        let mut wrapper = Command::new("sh")
            .args(["-c", WRAPPER, "sh", &program])
            .arg(self.dir.join("conf"))
            .args(["--port", &self.port.unwrap_or(0).to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(&self.dir)
            .arg("--pidfile")
            .arg(self.dir.join("pid"))
            .arg("--logfile")
            .arg(self.dir.join("log"))
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let output = wrapper.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut pid)
            .expect("a process id");
        let pid = pid.trim().to_owned();
        let gone = || !PathBuf::from(format!("/proc/{pid}")).exists();
        let mut came_up = false;
        for _ in 0..LOOKS {
            came_up = self.answers();
            // Without /proc this only waits longer for a server that failed to start.
            if came_up || cfg!(target_os = "linux") && gone() {
                break;
            }
            sleep(LOOK);
        }
        let mut running = self.running.lock().expect("not poisoned");
        *running = Some(Running { wrapper, pid });
        drop(running);
        if !came_up {
            self.kill();
        }
        came_up
    }

    /// Whether it is there. Its file tells it from a stranger on the same port.
    fn answers(&self) -> bool {
        fn ping(mut stream: impl Read + Write) -> io::Result<bool> {
            stream.write_all(b"PING\r\n")?;
            let mut sign = [0];
            stream.read_exact(&mut sign)?;
            Ok(sign == *b"+" || sign == *b"-")
        }
        let socket = || ping(UnixStream::connect(self.socket())?);
        let port = |port| ping(TcpStream::connect(("127.0.0.1", port))?);
        self.dir.join("pid").exists()
            && socket().unwrap_or(false)
            && self.port.is_none_or(|number| port(number).unwrap_or(false))
    }

    fn signal(&self, signal: &str) {
        let running = self.running.lock().expect("not poisoned");
        let pid = &running.as_ref().expect("it runs").pid;
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {pid}")])
            .status();
        assert!(
            sent.expect("a shell").success(),
            "{signal} was not delivered"
        );
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not `kill`: a second panic would hide the first.
        let running = self.running.get_mut().map(Option::take);
        if let Ok(Some(mut running)) = running {
            drop(running.wrapper.stdin.take());
            let _ = running.wrapper.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
