//! A real server process on a data folder, and the command line as a user runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

pub const CONFOLD: &str = env!("CARGO_BIN_EXE_confold");

/// `confold serve`, killed with SIGKILL when dropped.
pub struct ServerProcess {
    pub child: Child,
    pub address: String,
    /// What it said before it served.
    pub said: Vec<String>,
}

impl ServerProcess {
    /// Starts on a free port and waits until it says where.
    pub fn start(data: &Path) -> ServerProcess {
        ServerProcess::start_with(data, &[])
    }

    pub fn start_with(data: &Path, environment: &[(&str, &str)]) -> ServerProcess {
        let mut child = Command::new(CONFOLD)
            .args(["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"])
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
                panic!("the server ended before it served: {said:?}, {:?}", child.wait());
            };
            if let Some((_, address)) = line.split_once("on http://") {
                let address = address.trim().to_owned();
                // Whatever it says later must not fill the pipe.
                std::thread::spawn(move || lines.for_each(drop));
                return ServerProcess { child, address, said };
            }
            said.push(line);
        }
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

/// Runs `confold` in an environment without anything of the user's.
pub fn confold(arguments: &[&str]) -> Output {
    let mut command = Command::new(CONFOLD);
    command.args(arguments).stdin(Stdio::null()).env_clear();
    command.env("HOME", "/nonexistent").env("USER", "ada").env("PATH", "/usr/bin:/bin");
    command.output().unwrap()
}

/// Stdout of a command that must succeed.
pub fn succeeds(arguments: &[&str]) -> String {
    let output = confold(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "confold {arguments:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit status and stderr of a command that must fail.
pub fn fails(arguments: &[&str]) -> (i32, String) {
    let output = confold(arguments);
    assert!(!output.status.success(), "confold {arguments:?} must fail: {output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}
