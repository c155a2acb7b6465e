//! A fuzzer for stable Rust. It changes known inputs at random, a few changes on top of each other, and gives them to a decoder. There is no
//! coverage to guide it; what takes its place is the decoder's answer: an input that is answered in a way not seen before is kept, and
//! changed further.
//!
//! Every execution is watched: a panic, memory out of proportion to the input, an answer that differs when asked again, and an execution
//! that does not end fail the run. Then the input is made as small as it goes, and printed as a line for the corpus.
//!
//! A run makes as many executions as its target says, always the same ones; with `CONFOLD_FUZZ_SECONDS` it lasts so long, with a new seed
//! each time, which is printed and can be given as `CONFOLD_FUZZ_SEED`. With `CONFOLD_FUZZ_KEEP` set, what was kept is written to the corpus
//! in `tests/corpus`. `CONFOLD_FUZZ_TRACE` names a file that gets each input before it is decoded, for what ends the whole process.

pub mod corpus;
mod mutate;
pub mod proto;

pub use mutate::Rng;

use allocation_counter::measure;
use rand::{Rng as _, SeedableRng};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// What a decoder made of an input. The words tell ways of answering apart; numbers and quotations in them do not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Taken(String),
    Refused(String),
}

impl Answer {
    pub fn of<T, E: ToString>(result: Result<T, E>, taken: impl FnOnce(T) -> String) -> Answer {
        match result {
            Ok(value) => Answer::Taken(taken(value)),
            Err(error) => Answer::Refused(error.to_string()),
        }
    }

    /// The same for all answers that differ in numbers, names and quotations alone.
    fn kind(&self) -> String {
        let (mark, words) = match self {
            Answer::Taken(words) => ('+', words),
            Answer::Refused(words) => ('-', words),
        };
        let mut kind = String::from(mark);
        let plain = words.split(['"', '`']).step_by(2).flat_map(str::split_whitespace);
        let counts = |word: &&str| {
            word.len() <= 16
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_alphabetic() || ",:;.".contains(letter))
        };
        for word in plain.filter(counts).take(16) {
            kind.push_str(word);
            kind.push(' ');
        }
        kind
    }
}

/// A decoder and what it is fed with.
pub struct Target<'a> {
    /// Also the name of its corpus.
    pub name: &'static str,
    /// Inputs to begin with, besides the corpus.
    pub seeds: Vec<Vec<u8>>,
    /// Pieces that mean something to the decoder.
    pub words: Vec<Vec<u8>>,
    /// Inputs are protobuf messages: their fields are changed as well as their bytes.
    pub proto: bool,
    /// The same input is answered alike each time.
    pub stable: bool,
    /// Makes checksums right again, so that what lies behind them is reached. Not always applied.
    pub repair: Option<&'a dyn Fn(&mut Vec<u8>)>,
    /// What one execution may hold at once: so many bytes, and so many for each byte of input.
    pub memory: (usize, usize),
    /// Executions of a short run.
    pub short: u64,
    /// Decodes and checks what must hold. Panics where it does not.
    pub check: &'a dyn Fn(&[u8]) -> Answer,
}

impl<'a> Target<'a> {
    pub fn new(name: &'static str, check: &'a dyn Fn(&[u8]) -> Answer) -> Target<'a> {
        Target {
            name,
            seeds: Vec::new(),
            words: Vec::new(),
            proto: false,
            stable: true,
            repair: None,
            memory: (1 << 20, 64),
            short: 20_000,
            check,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub executions: u64,
    pub taken: u64,
    /// Ways of answering that were seen.
    pub answers: usize,
    /// Peak of memory in one execution.
    pub peak: usize,
    pub slowest: Duration,
}

/// No input is made longer than this.
const LONGEST: usize = 1 << 16;
/// Inputs that are kept for further changes.
const POPULATION: usize = 4096;
/// More ways of answering are not told apart: then answers repeat words of the input.
const MOST_KINDS: usize = 20_000;
/// An execution that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);

thread_local! {
    /// Under the fuzzer's eyes, what panics is no news until it is found to matter: some libraries are known to, and are caught.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Where and why the last such panic was.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

fn hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match WATCHED.get() {
            true => LAST.set(info.to_string()),
            false => print(info),
        }));
    });
}

/// What it returns, or why it panicked.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    WATCHED.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    WATCHED.set(false);
    result.map_err(|_| LAST.take())
}

/// Fuzzes one target and prints what came of it. Panics with the input where something is wrong.
pub fn run(target: &Target<'_>) -> Report {
    let setting = |name: &str| std::env::var(name).ok();
    let number = |name: &str| setting(name).map(|text| text.parse::<u64>().expect("a number"));
    let name = target.name;
    let seconds = number("CONFOLD_FUZZ_SECONDS");
    let fresh = || UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed = number("CONFOLD_FUZZ_SEED").unwrap_or_else(|| seconds.map_or(1, |_| fresh()));
    println!("{name}: seed {seed}");
    hook();
    let watch = Watch::start(name);
    let mut fuzzer = Fuzzer {
        target,
        rng: Rng::seed_from_u64(seed ^ name.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte))),
        population: Vec::new(),
        kinds: BTreeSet::new(),
        report: Report::default(),
        watch: &watch,
        trace: setting("CONFOLD_FUZZ_TRACE"),
    };
    let known: Vec<Vec<u8>> = corpus::read(name)
        .into_iter()
        .chain(target.seeds.iter().cloned())
        .collect();
    // What is made once, at first use, is none of an input's memory.
    let _ = caught(|| (target.check)(known.first().expect("something to begin with")));
    for input in &known {
        fuzzer.execute(input);
        fuzzer.population.push(input.clone());
    }
    let begun_with = fuzzer.population.len();
    let began = Instant::now();
    let goes_on = |report: &Report| match seconds {
        Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        None => report.executions < target.short,
    };
    while goes_on(&fuzzer.report) {
        for _ in 0..64 {
            let input = fuzzer.next();
            if fuzzer.execute(&input) && fuzzer.population.len() < begun_with + POPULATION {
                fuzzer.population.push(input);
            }
        }
    }
    fuzzer.report.answers = fuzzer.kinds.len();
    let Report {
        executions,
        taken,
        answers,
        peak,
        slowest,
    } = fuzzer.report.clone();
    let (seconds, slowest) = (began.elapsed().as_secs(), slowest.as_millis());
    println!(
        "SOAK target={name} seconds={seconds} executions={executions} taken={taken} answers={answers} peak_bytes={peak} slowest_ms={slowest} failures=0 seed={seed}"
    );
    if setting("CONFOLD_FUZZ_KEEP").is_some() {
        fuzzer.keep(&known);
    }
    fuzzer.report
}

struct Fuzzer<'a, 't> {
    target: &'a Target<'t>,
    rng: Rng,
    population: Vec<Vec<u8>>,
    kinds: BTreeSet<String>,
    report: Report,
    watch: &'a Watch,
    trace: Option<String>,
}

impl Fuzzer<'_, '_> {
    /// A known input, changed.
    fn next(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        // What was kept last is most likely to lead on.
        let count = self.population.len();
        let at = if rng.random_ratio(1, 3) {
            count - 1 - rng.random_range(0..count.min(16))
        } else {
            rng.random_range(0..count)
        };
        let mut input = self.population[at].clone();
        let other = &self.population[rng.random_range(0..count)];
        // Mostly one or two changes: more leave little of what was known.
        for _ in 0..=rng.random::<u8>().trailing_ones() {
            if self.target.proto && rng.random_ratio(1, 2) {
                proto::mutate(rng, &mut input, other);
            } else {
                mutate::bytes(rng, &mut input, other, &self.target.words);
            }
        }
        input.truncate(LONGEST);
        if let Some(repair) = self.target.repair
            && rng.random_ratio(7, 8)
        {
            repair(&mut input);
        }
        input
    }

    /// Whether it was answered in a new way.
    fn execute(&mut self, input: &[u8]) -> bool {
        if let Some(file) = &self.trace {
            std::fs::write(file, corpus::line(input)).expect("the trace can be written");
        }
        self.watch.begins(input);
        let again = self.target.stable && self.report.executions.is_multiple_of(16);
        let began = Instant::now();
        let answer = match self.judge(input, again) {
            Ok((answer, peak)) => {
                self.report.peak = self.report.peak.max(peak);
                answer
            }
            Err(what) => self.fail(input, &what),
        };
        self.report.slowest = self.report.slowest.max(began.elapsed());
        self.watch.ended();
        self.report.executions += 1;
        self.report.taken += u64::from(matches!(answer, Answer::Taken(_)));
        self.kinds.len() < MOST_KINDS && self.kinds.insert(answer.kind())
    }

    fn judge(&self, input: &[u8], again: bool) -> Result<(Answer, usize), String> {
        let check = || caught(|| (self.target.check)(input));
        let mut answer = None;
        let memory = measure(|| answer = Some(check()));
        let answer = answer
            .expect("it was measured")
            .map_err(|why| format!("it panics: {why}"))?;
        let (base, factor) = self.target.memory;
        let (peak, allowed) = (
            usize::try_from(memory.bytes_max).unwrap_or(usize::MAX),
            base + factor * input.len(),
        );
        if peak > allowed {
            return Err(format!("it takes {peak} bytes, {allowed} are allowed"));
        }
        if again && check()? != answer {
            return Err("it is answered in another way when asked again".to_owned());
        }
        Ok((answer, peak))
    }

    fn fail(&self, input: &[u8], what: &str) -> ! {
        let name = self.target.name;
        let small = smaller(input, &|input| self.judge(input, self.target.stable).is_err());
        println!("SOAK target={name} failures=1");
        panic!(
            "{name}: {what}. A line for tests/corpus/{name}.txt:\n{}",
            corpus::line(&small)
        );
    }

    /// Adds what is worth keeping to the corpus: one short input for each way of answering.
    fn keep(&mut self, known: &[Vec<u8>]) {
        let mut kinds: BTreeSet<String> = known.iter().map(|input| (self.target.check)(input).kind()).collect();
        let mut kept = corpus::read(self.target.name);
        let mut found: Vec<Vec<u8>> = self.population.split_off(known.len());
        found.sort_by_key(Vec::len);
        for input in found {
            let kind = (self.target.check)(&input).kind();
            if kinds.insert(kind.clone()) {
                let small = smaller(&input, &|input| (self.target.check)(input).kind() == kind);
                if small.len() <= corpus::LONGEST && kept.len() < corpus::MOST {
                    kept.push(small);
                }
            }
        }
        corpus::write(self.target.name, &kept);
    }
}

/// Takes pieces away as long as `still` holds.
fn smaller(input: &[u8], still: &dyn Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut small = input.to_vec();
    let mut piece = small.len().next_power_of_two();
    while piece > 0 {
        let mut at = 0;
        while at < small.len() {
            let mut shorter = small.clone();
            shorter.drain(at..small.len().min(at + piece));
            if still(&shorter) { small = shorter } else { at += piece }
        }
        piece /= 2;
    }
    small
}

/// Ends the process, with the input, when an execution does not end.
struct Watch {
    running: Arc<Mutex<Option<(Instant, Vec<u8>)>>>,
    _stops: std::sync::mpsc::Sender<()>,
}

impl Watch {
    fn start(name: &'static str) -> Watch {
        let running: Arc<Mutex<Option<(Instant, Vec<u8>)>>> = Arc::default();
        let (stops, stopped) = channel();
        let seen = running.clone();
        std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let running = seen.lock().expect("nobody panics under this lock");
                if let Some((_, input)) = running.as_ref().filter(|(began, _)| began.elapsed() > HANGS) {
                    println!("SOAK target={name} failures=1");
                    eprintln!(
                        "{name}: it does not end. A line for tests/corpus/{name}.txt:\n{}",
                        corpus::line(input)
                    );
                    std::process::abort();
                }
            }
        });
        Watch { running, _stops: stops }
    }

    fn begins(&self, input: &[u8]) {
        *self.running.lock().expect("nobody panics under this lock") = Some((Instant::now(), input.to_vec()));
    }

    fn ended(&self) {
        *self.running.lock().expect("nobody panics under this lock") = None;
    }
}
