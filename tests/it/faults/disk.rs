//! A file system of its own on a loop device, which can lose its power and be filled up. Needs root and a free loop device.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// EXT4_IOC_SHUTDOWN, also XFS_IOC_GOINGDOWN, with the flag by which nothing more is written, not even the journal: what was not
/// synced is gone, as when the power fails. Perl is on every Debian, and its `ioctl` needs no compiler. It says when it is ready, and waits for a line.
const POWER_OFF: &str = "my $flag = pack('L', 2); open(my $f, '<', $ARGV[0]) or die $!; $| = 1; print \"ready\n\"; <STDIN>; \
    defined(ioctl($f, 0x8004587D, $flag)) or die $!";

pub struct LoopDisk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl LoopDisk {
    /// The answer is why not, where this machine cannot have one.
    pub fn make(megabytes: u64) -> Result<LoopDisk, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut disk = LoopDisk { dir, mounted: false };
        std::fs::create_dir(disk.root()).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(disk.image()).map_err(|error| error.to_string())?;
        file.set_len(megabytes << 20).map_err(|error| error.to_string())?;
        let kind = std::env::var("CONFOLD_FILE_SYSTEM").unwrap_or_else(|_| "ext4".to_owned());
        let quiet: &[&str] = if kind == "ext4" {
            &["-q", "-F", "-m", "0"]
        } else {
            &["-q"]
        };
        run(&format!("mkfs.{kind}"), &[quiet, &[text(&disk.image())]].concat())?;
        disk.mount()?;
        Ok(disk)
    }

    /// As `make`, and says on the way which row is left out and why.
    pub fn or_skip(row: &str, megabytes: u64) -> Option<LoopDisk> {
        match LoopDisk::make(megabytes) {
            Ok(disk) => Some(disk),
            Err(why) => {
                println!("SKIPPED {row}: it needs root and a free loop device: {why}");
                None
            }
        }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(&self.image()), text(&self.root())])?;
        self.mounted = true;
        Ok(())
    }

    /// Comes back with what had reached the disk. Whoever used it has ended.
    pub fn power_on(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while let Err(why) = run("umount", &[text(&self.root())]) {
            assert!(Instant::now() < give_up, "{why}");
        }
        self.mounted = false;
        self.mount().unwrap();
    }
}

/// From now on nothing reaches the disk that is mounted there, and every write fails. `dark` is set right before it: the machine would be off, and
/// nobody would hear what a process says after it. It may say too much: of 300 bare loops of append and fdatasync on Linux 6.18, 13 had a
/// sync that met the shutdown, succeeded, and was lost.
pub fn power_off(root: &Path, dark: &AtomicBool) {
    let mut perl = Command::new("perl")
        .args(["-e", POWER_OFF, text(root)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(perl.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    dark.store(true, SeqCst);
    perl.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(perl.wait().unwrap().success());
    let error = std::fs::write(root.join("probe"), "x").expect_err("the power is off, and a file can be written");
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.mounted {
            _ = run("umount", &["-l", text(&self.root())]);
        }
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let done = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
