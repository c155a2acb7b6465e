//! Values on the command line: a file, standard input, or written out.

use crate::{app::App, error::Failure};
use confold_wire::pb::{self, value::Form};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ValueFormat {
    Json,
    Yaml,
    /// Protobuf's text format.
    Textproto,
    /// Protobuf's wire format.
    Binary,
}

/// What the help of every command that takes a value says.
pub const SOURCE_HELP: &str =
    "The value: a file, `-` for standard input, or written out where it begins with `{`, as in '{name: lab}'";

/// One value may not be bigger than an event can ever be.
const MAX_VALUE_BYTES: u64 = 64 << 20;

impl ValueFormat {
    /// By a file's extension.
    pub fn of_file(file: &Path) -> Option<ValueFormat> {
        Some(match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" => ValueFormat::Json,
            "yaml" | "yml" => ValueFormat::Yaml,
            "textproto" | "txtpb" | "pbtxt" => ValueFormat::Textproto,
            "binpb" | "pb" | "bin" => ValueFormat::Binary,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            ValueFormat::Json => "json",
            ValueFormat::Yaml => "yaml",
            ValueFormat::Textproto => "textproto",
            ValueFormat::Binary => "binary",
        }
    }

    fn value(self, bytes: Vec<u8>, from: &str) -> Result<pb::Value, Failure> {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                Failure::invalid(format!("{from}: not UTF-8 text from byte {at} on"))
            })
        };
        let form = match self {
            ValueFormat::Json => Form::Json(text(bytes)?),
            ValueFormat::Yaml => Form::Yaml(text(bytes)?),
            ValueFormat::Textproto => Form::Text(text(bytes)?),
            ValueFormat::Binary => Form::Proto(bytes.into()),
        };
        Ok(pb::Value {
            form: Some(form),
            r#type: String::new(),
        })
    }
}

impl From<ValueFormat> for pb::Format {
    fn from(format: ValueFormat) -> pb::Format {
        match format {
            ValueFormat::Json => pb::Format::Json,
            ValueFormat::Yaml => pb::Format::Yaml,
            ValueFormat::Textproto => pb::Format::Text,
            ValueFormat::Binary => pb::Format::Proto,
        }
    }
}

impl App {
    /// A value from where the command line says. YAML, of which JSON is a part, where nothing says how it is written.
    pub fn value(&mut self, source: &str, format: Option<ValueFormat>) -> Result<pb::Value, Failure> {
        let inline = source.trim_start().starts_with('{') || source.contains('\n');
        if inline {
            return format
                .unwrap_or(ValueFormat::Yaml)
                .value(source.as_bytes().to_vec(), "the value");
        }
        if source == "-" {
            let bytes = self.stdin()?;
            return format.unwrap_or(ValueFormat::Yaml).value(bytes, "standard input");
        }
        let file = self.file(source);
        let Some(format) = format.or_else(|| ValueFormat::of_file(&file)) else {
            let failure = Failure::invalid(format!("{source}: the name does not say how the value is written"));
            return Err(failure.hint("say it with --format, or end the name in .json, .yaml, .textproto or .binpb"));
        };
        format.value(read_file(&file, source)?, source)
    }

    /// A file name as it is meant on the command line.
    pub fn file(&self, name: &str) -> PathBuf {
        self.context.folder.join(name)
    }

    pub fn stdin(&mut self) -> Result<Vec<u8>, Failure> {
        read_all(&mut self.context.input, "standard input")
    }
}

/// Everything that comes, as one value.
pub fn read_all(input: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_VALUE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::invalid(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > MAX_VALUE_BYTES {
        return Err(Failure::invalid(format!(
            "{name} holds more than {MAX_VALUE_BYTES} bytes"
        )));
    }
    Ok(bytes)
}

/// A file that is one value; `name` is how the command line calls it.
pub fn read_file(file: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        let failure = Failure::invalid(format!("{name}: {error}"));
        if error.kind() != std::io::ErrorKind::NotFound {
            return failure;
        }
        failure.hint("a value that is written out begins with `{`, as in '{name: lab}'")
    };
    let size = fs::metadata(file).map_err(failed)?.len();
    if size > MAX_VALUE_BYTES {
        let text = format!("{name}: {size} bytes; a value has at most {MAX_VALUE_BYTES}");
        return Err(Failure::invalid(text).hint("load big trees with `confold apply`"));
    }
    fs::read(file).map_err(failed)
}

/// The text of a value that was asked for as text.
pub fn text_of(value: Option<&pb::Value>) -> &str {
    match value.and_then(|value| value.form.as_ref()) {
        Some(Form::Json(text) | Form::Text(text) | Form::Yaml(text)) => text,
        Some(Form::Proto(_)) | None => "",
    }
}
