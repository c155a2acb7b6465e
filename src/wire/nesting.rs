//! Stops texts whose nesting would exhaust the stack of a recursive parser before it sees them.

/// How comments look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    /// `// …` and `/* … */`
    Proto,
    /// `# …`
    Text,
}

/// The line (from 1) on which brackets outside strings and comments nest deeper than the limit; `None` where they
/// never do.
pub(crate) fn deeper_than(text: &str, limit: u32, comments: Comments) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut depth) = (0, 1, 0u32);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skip = match rest[0] {
            b'{' | b'[' | b'<' | b'(' => {
                depth += 1;
                if depth > limit {
                    return Some(line);
                }
                1
            }
            b'}' | b']' | b'>' | b')' => {
                depth = depth.saturating_sub(1);
                1
            }
            b'#' if comments == Comments::Text => to_line_end(rest),
            b'/' if comments == Comments::Proto && rest.starts_with(b"//") => to_line_end(rest),
            b'/' if comments == Comments::Proto && rest.starts_with(b"/*") => rest
                .windows(2)
                .skip(2)
                .position(|pair| pair == b"*/")
                .map_or(rest.len(), |end| end + 4),
            quote @ (b'"' | b'\'') => string(rest, quote),
            _ => 1,
        };
        line += rest[..skip].iter().filter(|byte| **byte == b'\n').count();
        at += skip;
    }
    None
}

fn to_line_end(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

/// A string ends at its quote or, since no parser lets one run on, at the end of the line.
fn string(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 1,
            b'\n' => return at,
            byte if byte == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_strings_and_comments_count() {
        let cases = [
            ("{{{", Comments::Proto, Some(1)),
            ("{\n{\n}\n{\n{", Comments::Proto, Some(5)),
            ("{}{}{}{}", Comments::Proto, None),
            ("\"{{{\" '{{{'", Comments::Proto, None),
            (r#""\"{{{""#, Comments::Proto, None),
            ("// {{{\n{{", Comments::Proto, None),
            ("/* {{{\n */ {{{", Comments::Proto, Some(2)),
            ("/*/ {{{ */", Comments::Proto, None),
            ("# {{{\n", Comments::Text, None),
            ("# {{{\n", Comments::Proto, Some(1)),
            ("// {{{", Comments::Text, Some(1)),
            ("\"\n{{{", Comments::Text, Some(2)),
        ];
        for (text, comments, expected) in cases {
            assert_eq!(deeper_than(text, 2, comments), expected, "{text:?}");
        }
    }
}
