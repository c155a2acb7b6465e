//! What is printed: data to stdout, everything else to stderr; for people, or as JSON.

use crate::{context::Context, error::Failure};
use anstyle::{AnsiColor, Style};
use confold_wire::{json, pb};
use jiff::{Timestamp, tz::TimeZone};
use prost::Message;
use serde_json::{Value as Json, json};
use std::io::Write;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

pub struct Ui {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_color: bool,
    err_color: bool,
    pub err_is_terminal: bool,
    pub json: bool,
    zone: TimeZone,
}

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
pub const CHANGED: Style = AnsiColor::Yellow.on_default();
pub const DIM: Style = Style::new().dimmed();

impl Ui {
    pub fn new(context: &mut Context, json: bool, color: Color) -> Ui {
        let plain = context.variable("NO_COLOR").is_some() || context.variable("TERM") == Some("dumb");
        let colored = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !plain,
        };
        Ui {
            out: std::mem::replace(&mut context.out, Box::new(std::io::sink())),
            err: std::mem::replace(&mut context.err, Box::new(std::io::sink())),
            out_color: colored(context.out_is_terminal) && !json,
            err_color: colored(context.err_is_terminal) && !json,
            err_is_terminal: context.err_is_terminal,
            json,
            zone: context.zone.clone(),
        }
    }

    /// A line, or several, of data.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        self.raw(text.as_bytes())?;
        if !text.ends_with('\n') && !text.is_empty() {
            self.raw(b"\n")?;
        }
        Ok(())
    }

    /// Bytes of data as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write_all(bytes)?)
    }

    pub fn styled(&mut self, style: Style, text: &str) -> Result<(), Failure> {
        let line = if self.out_color {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        };
        self.data(&line)
    }

    pub fn json_value(&mut self, value: &Json) -> Result<(), Failure> {
        self.data(&format!("{value:#}"))
    }

    /// A message of the service in its JSON form, the same as over HTTP.
    pub fn message<M: Message>(&mut self, name: &str, message: &M) -> Result<(), Failure> {
        let value = message_json(name, message)?;
        self.json_value(&value)
    }

    /// One line of JSON, for output that comes in pieces.
    pub fn message_line<M: Message>(&mut self, name: &str, message: &M) -> Result<(), Failure> {
        let value = message_json(name, message)?;
        self.data(&value.to_string())
    }

    /// For people, beside the data. What cannot be said is not worth failing for.
    pub fn note(&mut self, text: &str) {
        _ = writeln!(self.err, "{}", text.trim_end_matches('\n'));
    }

    pub fn label_error(&mut self, label: &str, text: &str) {
        self.labelled(AnsiColor::Red.on_default().bold(), label, text);
    }

    pub fn label_hint(&mut self, label: &str, text: &str) {
        self.labelled(AnsiColor::Cyan.on_default(), label, text);
    }

    pub fn error_json(&mut self, failure: &Failure) {
        let detail = json::to_json("confold.v1.ErrorDetail", &failure.detail).unwrap_or(Json::Null);
        let value = json!({ "error": detail, "causes": failure.causes, "exit": failure.exit as u8 });
        _ = writeln!(self.err, "{value:#}");
    }

    /// The end of something proposed, and what the server did to the values on their way in.
    pub fn decision(&mut self, decision: &pb::Decision) -> Result<(), Failure> {
        for note in &decision.notes {
            self.label_hint("Note:", note);
        }
        if self.json {
            return self.message("confold.v1.Decision", decision);
        }
        self.data(&decision_text(decision))
    }

    pub fn time(&self, ms: i64) -> String {
        match Timestamp::from_millisecond(ms) {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string(),
            Err(_) => format!("{ms} ms"),
        }
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        _ = self.err.flush();
        Ok(self.out.flush()?)
    }

    fn labelled(&mut self, style: Style, label: &str, text: &str) {
        if self.err_color {
            self.note(&format!("{style}{label}{style:#} {text}"));
        } else {
            self.note(&format!("{label} {text}"));
        }
    }
}

pub fn message_json<M: Message>(name: &str, message: &M) -> Result<Json, Failure> {
    Ok(json::to_json(name, message)?)
}

/// `committed: revision 13, position 4182, root 3f9c12ab34cd`
pub fn decision_text(decision: &pb::Decision) -> String {
    use pb::decision::Outcome;
    let word = match decision.outcome() {
        Outcome::Committed => "committed",
        Outcome::Unchanged => "unchanged",
        Outcome::Rejected => "rejected",
        Outcome::Unknown => "unknown",
        Outcome::NeverApplied => "never applied, and it never will be",
        Outcome::NotSeen => "not seen; a copy may still be on its way",
        Outcome::Unspecified => "no outcome",
    };
    let mut facts = Vec::new();
    if let Some(revision) = decision.revision {
        facts.push(format!("revision {revision}"));
    }
    if let Some(position) = decision.position {
        facts.push(format!("position {position}"));
    }
    if !decision.root.is_empty() {
        facts.push(format!("root {}", crate::error::short(&decision.root)));
    }
    if decision.repeated {
        facts.push("decided before".to_owned());
    }
    if let Some(error) = &decision.error {
        facts.push(confold_wire::status::message(error));
    }
    if facts.is_empty() {
        word.to_owned()
    } else {
        format!("{word}: {}", facts.join(", "))
    }
}

/// Columns as wide as their widest cell, two spaces apart. An empty heading row: none.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines = Vec::with_capacity(rows.len() + 1);
    if !headings.is_empty() {
        lines.push(headings.iter().map(|&heading| heading.to_owned()).collect());
    }
    lines.extend(rows);
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(cell);
            row.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// `3 elements`, `1 element`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// `1,000,000`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_numbers_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(count(1, "element", "elements"), "1 element");
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = vec![
            vec!["a".to_owned(), "12".to_owned()],
            vec!["long".to_owned(), "3".to_owned()],
        ];
        assert_eq!(table(&["K", "V"], rows), "K     V\na     12\nlong  3\n");
    }
}
