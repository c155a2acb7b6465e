//! A real server process on a data folder.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const CONFOLD: &str = env!("CARGO_BIN_EXE_confold");

/// `confold serve`, killed with SIGKILL when dropped.
pub struct ServerProcess {
    pub child: Child,
    pub address: String,
    said: Arc<Mutex<VecDeque<String>>>,
}

/// So many of its last lines are kept.
const LINES: usize = 60;

impl ServerProcess {
    /// Starts on a free port and waits until it says where.
    pub fn start(data: &Path) -> ServerProcess {
        ServerProcess::start_with(data, &[])
    }

    /// With more options.
    pub fn start_with(data: &Path, options: &[&str]) -> ServerProcess {
        let serve = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        ServerProcess::run(&[&serve[..], options].concat())
    }

    pub fn start_at(data: &Path, listen: &str) -> ServerProcess {
        ServerProcess::run(&["serve", data.to_str().unwrap(), "--listen", listen])
    }

    /// The same with words of the caller's.
    pub fn run(words: &[&str]) -> ServerProcess {
        ServerProcess::run_with(words, &[])
    }

    pub fn run_with(words: &[&str], environment: &[(&str, &str)]) -> ServerProcess {
        ServerProcess::try_run(words, environment).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same; why not, when it ended before it served.
    pub fn try_run(words: &[&str], environment: &[(&str, &str)]) -> Result<ServerProcess, String> {
        ServerProcess::of(CONFOLD, words, environment)
    }

    /// The same by another program, which becomes the server.
    pub fn of(program: &str, words: &[&str], environment: &[(&str, &str)]) -> Result<ServerProcess, String> {
        let mut child = Command::new(program)
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                let status = child.wait().unwrap();
                return Err(format!("the server ended before it served: {said:?}, {status}"));
            };
            if let Some(address) = served_at(&line) {
                // Whatever it says later must not fill the pipe.
                let said = Arc::new(Mutex::new(VecDeque::from(said)));
                let kept = said.clone();
                std::thread::spawn(move || {
                    for line in lines.map_while(Result::ok) {
                        let mut kept = kept.lock().unwrap();
                        kept.push_back(line);
                        if kept.len() > LINES {
                            kept.pop_front();
                        }
                    }
                });
                return Ok(ServerProcess { child, address, said });
            }
            said.push(line);
        }
    }

    /// The same with all that it says in a file, for whoever wants to see every line of it.
    pub fn logging_to(file: &Path, words: &[&str], environment: &[(&str, &str)]) -> ServerProcess {
        let child = Command::new(CONFOLD)
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(file).unwrap())
            .spawn()
            .unwrap();
        let mut server = ServerProcess { child, address: String::new(), said: Arc::default() };
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
            // A line that is whole.
            if let Some(address) = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(served_at) {
                server.address = address;
                return server;
            }
            assert!(Instant::now() < give_up && server.child.try_wait().unwrap().is_none(), "it does not serve: {text}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Bytes of memory that it has now, and the most since `forget_peak`.
    pub fn resident(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// Sends it a signal by its name: `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let process = self.child.id();
        assert!(
            Command::new("sh")
                .args(["-c", &format!("kill -{name} {process}")])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for it to end by itself.
    pub fn ended_within(&mut self, time: Duration) -> ExitStatus {
        let give_up = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "the server goes on after {time:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Its state as the kernel names it: `T` is stopped.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    /// The last lines of its standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().iter().map(|line| format!("  {line}\n")).collect()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The address in the line by which a server says that it serves.
fn served_at(line: &str) -> Option<String> {
    let (_, address) = line.strip_prefix("serving ")?.split_once("://")?;
    Some(address.trim().to_owned())
}

/// What a command of the real binary came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn all(&self) -> String {
        format!("{}\n{}", self.out, self.err)
    }
}

/// Runs a command to its end.
pub fn confold(words: &[&str]) -> Ran {
    confold_with(words, &[])
}

pub fn confold_with(words: &[&str], environment: &[(&str, &str)]) -> Ran {
    let done = Command::new(CONFOLD)
        .args(words)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran {
        code: done.status.code().unwrap_or(-1),
        out: text(done.stdout),
        err: text(done.stderr),
    }
}
