//! A real server process on a data folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const CONFOLD: &str = env!("CARGO_BIN_EXE_confold");

/// `confold serve`, killed with SIGKILL when dropped.
pub struct ServerProcess {
    pub child: Child,
    pub address: String,
}

impl ServerProcess {
    /// Starts on a free port and waits until it says where.
    pub fn start(data: &Path) -> ServerProcess {
        ServerProcess::start_with(data, &[])
    }

    /// With more options.
    pub fn start_with(data: &Path, options: &[&str]) -> ServerProcess {
        let mut child = Command::new(CONFOLD)
            .args(["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"])
            .args(options)
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
            if let Some((_, address)) = line.strip_prefix("serving ").and_then(|line| line.split_once("://")) {
                let address = address.trim().to_owned();
                // Whatever it says later must not fill the pipe.
                std::thread::spawn(move || lines.for_each(drop));
                return ServerProcess { child, address };
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
