//! Inputs that are kept: `tests/corpus/TARGET.txt` has one a line, its bytes as in a Rust string. Lines that begin with `#` are remarks.

use std::path::PathBuf;

/// What a run may add by itself.
pub const LONGEST: usize = 400;
pub const MOST: usize = 40;

fn file(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus")).join(format!("{target}.txt"))
}

/// Inputs of a target; none where it has no corpus yet.
pub fn read(target: &str) -> Vec<Vec<u8>> {
    let text = match std::fs::read_to_string(file(target)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("the corpus of {target}: {error}"),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| bytes(line).unwrap_or_else(|| panic!("the corpus of {target}: {line:?} is no input")))
        .collect()
}

/// Replaces the inputs of a target; remarks stay in front.
pub fn write(target: &str, inputs: &[Vec<u8>]) {
    let before = std::fs::read_to_string(file(target)).unwrap_or_default();
    let mut text: String = before
        .lines()
        .filter(|line| line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for input in inputs {
        text.push_str(&line(input));
        text.push('\n');
    }
    std::fs::write(file(target), text).expect("the corpus can be written");
}

/// An input as a line.
pub fn line(input: &[u8]) -> String {
    let line = input.escape_ascii().to_string();
    // A remark begins with it.
    if line.starts_with('#') {
        line.replacen('#', r"\x23", 1)
    } else {
        line
    }
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut letters = line.bytes();
    while let Some(letter) = letters.next() {
        bytes.push(match letter {
            b'\\' => match letters.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [letters.next()?, letters.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            letter => letter,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_input_back() {
        let all: Vec<u8> = (0..=255).collect();
        for input in [&all[..], b"", b"#", b"\\x", b"# \"quoted\" \\"] {
            assert_eq!(bytes(&line(input)).unwrap(), input);
            assert!(!line(input).starts_with('#'));
        }
        assert_eq!(bytes("\\x1"), None);
    }
}
