//! Everything a command meets of the world around it, so that a test can be that world.

use crate::local::Local;
use confold_client::{Error, Nonces, Options, Remote, Retries};
use confold_wire::api::Api;
use jiff::tz::TimeZone;
use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Opens the service at an address. Every call of it ends within the time that the options give, which is longer than the
/// deadlines that the calls themselves carry.
pub type Connect = Arc<dyn Fn(&str, &Options) -> Result<Arc<dyn Api>, Error> + Send + Sync>;

/// Lets somebody change a file: the words of the editor's command, and the file. `false`: the editor failed.
pub type Edit = Arc<dyn Fn(&str, &Path) -> io::Result<bool> + Send + Sync>;

pub struct Context {
    /// Data only.
    pub out: Box<dyn Write + Send>,
    /// Everything else.
    pub err: Box<dyn Write + Send>,
    pub input: Box<dyn Read + Send>,
    pub out_is_terminal: bool,
    pub err_is_terminal: bool,
    /// Columns, where known.
    pub width: Option<usize>,
    pub environment: BTreeMap<String, String>,
    /// What relative file names are relative to.
    pub folder: PathBuf,
    /// Milliseconds since 1970.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// In which times are shown.
    pub zone: TimeZone,
    pub version: String,
    pub nonces: Nonces,
    pub retries: Retries,
    pub connect: Connect,
    pub edit: Edit,
    pub local: Arc<dyn Local>,
}

impl Context {
    /// The process's own world.
    pub fn of_process(version: &str, local: Arc<dyn Local>) -> Context {
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Context {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            width: terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)),
            environment,
            folder: env::current_dir().unwrap_or_default(),
            now: Arc::new(now),
            zone: TimeZone::system(),
            version: version.to_owned(),
            nonces: Arc::new(nonce),
            retries: Retries {
                more: 3,
                ..Retries::default()
            },
            connect: Arc::new(|address, options| Ok(Arc::new(Remote::with_options(address, options)?))),
            edit: Arc::new(edit),
            local,
        }
    }

    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn nonce() -> Result<[u8; 16], Error> {
    let mut nonce = [0; 16];
    match getrandom::fill(&mut nonce) {
        Ok(()) => Ok(nonce),
        Err(error) => Err(Error::Answer(format!("no random numbers from the system: {error}"))),
    }
}

/// The command may have arguments of its own, as in `code --wait`.
fn edit(command: &str, file: &Path) -> io::Result<bool> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or("vi");
    Ok(process::Command::new(program)
        .args(words.map(OsStr::new))
        .arg(file)
        .status()?
        .success())
}
