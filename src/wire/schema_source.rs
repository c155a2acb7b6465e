//! A schema from files: `.proto` sources compiled here, without protoc, or a descriptor set that was compiled elsewhere.

use miette::Diagnostic;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use protox::file::{File, FileResolver, GoogleFileResolver};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    rc::Rc,
};

/// Bounds on what is read: a schema is one record on the log.
pub const MAX_FILES: usize = 2_000;
pub const MAX_FILE_BYTES: u64 = 4 << 20;
pub const MAX_TOTAL_BYTES: u64 = 32 << 20;
const MAX_FOLDER_DEPTH: usize = 32;
const MAX_NESTING: u32 = 100;
const MAX_PROBLEMS: usize = 20;

/// What a schema may import as `confold/options.proto` without having the file.
pub const OPTIONS_PROTO: &str = include_str!("../../schemas/confold/options.proto");
const OPTIONS_NAME: &str = "confold/options.proto";

/// A compiled schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// A serialized google.protobuf.FileDescriptorSet with all imports and custom options, without comments. The same
    /// files give the same bytes.
    pub descriptor_set: Vec<u8>,
    /// Names of the files that were asked for, imports not counted; ascending.
    pub files: Vec<String>,
}

/// Everything that is wrong, as far as it can be told at once.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct SchemaSourceError {
    pub problems: Vec<Problem>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// `file:line:column: what`, as far as it is known where.
    pub text: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// The descriptor set of a folder of `.proto` files (all of them, subfolders included), of one `.proto` file, or of a
/// file that holds a compiled descriptor set already. Imports are looked up in the folder itself, then in `includes`;
/// `google/protobuf/*.proto` and `confold/options.proto` are built in.
pub fn descriptor_set_of(source: &Path, includes: &[PathBuf]) -> Result<Compiled, SchemaSourceError> {
    let metadata = fs::metadata(source).map_err(|error| one(format!("{}: {error}", source.display()), ""))?;
    if metadata.is_dir() {
        let files = proto_files(source)?;
        if files.is_empty() {
            let hint = "name the folder that holds the schema, or a compiled descriptor set";
            return Err(one(format!("{}: no .proto file in it", source.display()), hint));
        }
        return compile(
            std::iter::once(source.to_owned())
                .chain(includes.iter().cloned())
                .collect(),
            files,
        );
    }
    if source.extension().is_some_and(|extension| extension == "proto") {
        let (root, name) = within(source, includes);
        return compile(
            std::iter::once(root).chain(includes.iter().cloned()).collect(),
            vec![name],
        );
    }
    if metadata.len() > MAX_TOTAL_BYTES {
        return Err(too_large(
            &source.display().to_string(),
            metadata.len(),
            MAX_TOTAL_BYTES,
        ));
    }
    let bytes = fs::read(source).map_err(|error| one(format!("{}: {error}", source.display()), ""))?;
    compiled(&bytes).map_err(|error| SchemaSourceError {
        problems: error
            .problems
            .into_iter()
            .map(|problem| Problem {
                text: format!("{}: {}", source.display(), problem.text),
                ..problem
            })
            .collect(),
    })
}

/// Takes over a descriptor set that was compiled elsewhere, without its comments. Every import must be in it.
pub fn compiled(descriptor_set: &[u8]) -> Result<Compiled, SchemaSourceError> {
    if descriptor_set.len() as u64 > MAX_TOTAL_BYTES {
        return Err(too_large(
            "descriptor set",
            descriptor_set.len() as u64,
            MAX_TOTAL_BYTES,
        ));
    }
    let descriptor_set =
        without_comments(descriptor_set).map_err(|problem| one(format!("not a descriptor set: {problem}"), ""))?;
    let pool = crate::descriptors::pool(&descriptor_set).map_err(|problem| {
        let hint = if problem.contains("has not been added") {
            "compile it with all imports included"
        } else {
            ""
        };
        one(format!("not a usable descriptor set: {problem}"), hint)
    })?;
    let mut files: Vec<String> = pool.files().map(|file| file.name().to_owned()).collect();
    if files.is_empty() {
        return Err(one("the descriptor set is empty".to_owned(), ""));
    }
    files.retain(|name| !is_built_in(name));
    files.sort();
    Ok(Compiled { descriptor_set, files })
}

impl fmt::Display for SchemaSourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&problem.text)?;
            if !problem.hint.is_empty() {
                write!(f, " ({})", problem.hint)?;
            }
        }
        Ok(())
    }
}

fn compile(roots: Vec<PathBuf>, files: Vec<String>) -> Result<Compiled, SchemaSourceError> {
    let refused = Rc::new(RefCell::new(BTreeSet::new()));
    let sources = Sources {
        roots,
        files: Cell::new(0),
        bytes: Cell::new(0),
        refused: refused.clone(),
    };
    let mut compiler = protox::Compiler::with_file_resolver(sources);
    // The typed set that protox also offers has lost all custom options, child_node among them (S1).
    compiler.include_imports(true).include_source_info(false);
    let mut problems = BTreeSet::new();
    for file in &files {
        if let Err(error) = compiler.open_file(file) {
            problems.extend(problems_of(&error));
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    // What the resolver itself refused is said once, in its own words, not once per importing file.
    problems.extend(refused.take());
    if problems.is_empty() {
        return Ok(Compiled {
            descriptor_set: compiler.encode_file_descriptor_set(),
            files,
        });
    }
    Err(SchemaSourceError {
        problems: problems.into_iter().take(MAX_PROBLEMS).collect(),
    })
}

/// Finds files by the names under which they are imported.
struct Sources {
    roots: Vec<PathBuf>,
    files: Cell<usize>,
    bytes: Cell<u64>,
    refused: Rc<RefCell<BTreeSet<Problem>>>,
}

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == OPTIONS_NAME {
            return File::from_source(name, OPTIONS_PROTO);
        }
        if is_built_in(name) {
            return GoogleFileResolver::new().open_file(name);
        }
        // An import is a name below a root, never a way out of it.
        let relative = Path::new(name);
        if !relative
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
        {
            return Err(protox::Error::file_not_found(name));
        }
        let Some(path) = self
            .roots
            .iter()
            .map(|root| root.join(relative))
            .find(|path| path.is_file())
        else {
            return Err(protox::Error::file_not_found(name));
        };
        let source = self.read(name, &path).map_err(|problem| {
            self.refused.borrow_mut().insert(problem.clone());
            protox::Error::new(Refused)
        })?;
        File::from_source(name, &source)
    }
}

impl Sources {
    fn read(&self, name: &str, path: &Path) -> Result<String, Problem> {
        let size = fs::metadata(path)
            .map_err(|error| problem(format!("{name}: {error}"), ""))?
            .len();
        self.files.set(self.files.get() + 1);
        self.bytes.set(self.bytes.get().saturating_add(size));
        if self.files.get() > MAX_FILES {
            return Err(problem(
                format!("more than {MAX_FILES} files"),
                "name the folder of this one schema",
            ));
        }
        if size > MAX_FILE_BYTES {
            return Err(too_large(name, size, MAX_FILE_BYTES).problems.remove(0));
        }
        if self.bytes.get() > MAX_TOTAL_BYTES {
            return Err(too_large("all files together", self.bytes.get(), MAX_TOTAL_BYTES)
                .problems
                .remove(0));
        }
        let bytes = fs::read(path).map_err(|error| problem(format!("{name}: {error}"), ""))?;
        let source = String::from_utf8(bytes).map_err(|error| {
            problem(
                format!("{name}: not UTF-8 from byte {} on", error.utf8_error().valid_up_to()),
                "",
            )
        })?;
        if let Some(line) = crate::nesting::deeper_than(&source, MAX_NESTING, crate::nesting::Comments::Proto) {
            return Err(problem(format!("{name}:{line}: nested deeper than {MAX_NESTING}"), ""));
        }
        Ok(source)
    }
}

/// Stands for a problem that is already noted.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

/// All problems that one error of the compiler holds, those that stand for noted ones left out.
fn problems_of(error: &protox::Error) -> Vec<Problem> {
    let text = format!("{error:?}");
    if text == "Refused" {
        return Vec::new();
    }
    // The compiler separates name and position by one colon more in one case, and leaves out the name in another.
    let text = text.replacen("::", ":", 1);
    let text = match error.file() {
        Some(file) if !text.contains(file) => format!("{file}: {text}"),
        _ => text,
    };
    let hint = if error.is_file_not_found() {
        "add the folder that it is relative to as an include folder".to_owned()
    } else {
        error.help().map(|help| help.to_string()).unwrap_or_default()
    };
    vec![Problem { text, hint }]
}

fn proto_files(folder: &Path) -> Result<Vec<String>, SchemaSourceError> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let failed = |error: std::io::Error| one(format!("{}: {error}", folder.display()), "");
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let kind = entry.file_type().map_err(failed)?;
            // Links to folders are not followed: they can lead in circles.
            if kind.is_dir() && !name.starts_with('.') {
                if depth == MAX_FOLDER_DEPTH {
                    let text = format!("{}: folders nested deeper than {MAX_FOLDER_DEPTH}", folder.display());
                    return Err(one(text, "name the folder that holds the schema"));
                }
                folders.push((entry.path(), format!("{prefix}{name}/"), depth + 1));
            } else if !kind.is_dir() && name.ends_with(".proto") && entry.path().is_file() {
                let file = format!("{prefix}{name}");
                if !is_built_in(&file) {
                    files.push(file);
                }
            }
            if files.len() > MAX_FILES {
                let hint = "name the folder of this one schema";
                return Err(one(
                    format!("{}: more than {MAX_FILES} .proto files", folder.display()),
                    hint,
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The folder that a file's imports are relative to, and the file's name in it.
fn within(file: &Path, includes: &[PathBuf]) -> (PathBuf, String) {
    let name = |path: &Path| path.to_string_lossy().replace('\\', "/");
    for include in includes {
        if let Ok(relative) = file.strip_prefix(include) {
            return (include.clone(), name(relative));
        }
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    (
        folder.to_owned(),
        file.file_name().map(Path::new).map(name).unwrap_or_default(),
    )
}

fn is_built_in(name: &str) -> bool {
    name == OPTIONS_NAME || name.starts_with("google/protobuf/")
}

/// Drops `source_code_info` (field 9 of each file, field 1 of the set) and keeps every other byte as it is.
fn without_comments(mut set: &[u8]) -> Result<Vec<u8>, String> {
    const FILE: u32 = 1;
    const SOURCE_CODE_INFO: u32 = 9;
    let mut out = Vec::with_capacity(set.len());
    while !set.is_empty() {
        let (number, wire) = decode_key(&mut set).map_err(|error| error.to_string())?;
        if (number, wire) != (FILE, WireType::LengthDelimited) {
            return Err(format!("field {number} where files are expected"));
        }
        let length = decode_varint(&mut set).map_err(|error| error.to_string())?;
        let length = usize::try_from(length).ok().filter(|length| *length <= set.len());
        let (mut file, rest) = set.split_at(length.ok_or("it is cut short")?);
        set = rest;
        let mut kept = Vec::with_capacity(file.len());
        while !file.is_empty() {
            let field = file;
            let (number, wire) = decode_key(&mut file).map_err(|error| error.to_string())?;
            skip_field(wire, number, &mut file, DecodeContext::default()).map_err(|error| error.to_string())?;
            if number != SOURCE_CODE_INFO {
                kept.extend_from_slice(&field[..field.len() - file.len()]);
            }
        }
        encode_key(FILE, WireType::LengthDelimited, &mut out);
        encode_varint(kept.len() as u64, &mut out);
        out.extend_from_slice(&kept);
    }
    Ok(out)
}

fn too_large(what: &str, size: u64, limit: u64) -> SchemaSourceError {
    one(format!("{what}: {size} bytes, the limit is {limit}"), "")
}

fn one(text: String, hint: &str) -> SchemaSourceError {
    SchemaSourceError {
        problems: vec![problem(text, hint)],
    }
}

fn problem(text: String, hint: &str) -> Problem {
    Problem {
        text,
        hint: hint.to_owned(),
    }
}
