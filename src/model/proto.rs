//! Writing and reading our own few messages as canonical protobuf bytes.

use crate::event::Malformed;
use crate::wire_bytes::{Cursor, Raw, RawField, WireError};
pub use crate::wire_bytes::{put_bytes as put_item, put_tag, put_varint};

/// A singular integer, omitted when 0.
pub fn put_uint(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_tag(out, number, 0);
        put_varint(out, value);
    }
}

/// Singular bytes or text, omitted when empty.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_item(out, number, value);
    }
}

/// A message that is present even when empty.
pub fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_tag(out, number, 2);
    // One byte is kept for the length, which is enough for most; a longer one shifts the body.
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        put_varint(&mut prefix, length as u64);
        out.splice(at..=at, prefix);
    }
}

/// The fields of one message in the order of its bytes. An error ends them.
pub struct Fields<'a> {
    cursor: Cursor<'a>,
}

pub enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { cursor: Cursor::new(bytes) }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let field = self.cursor.field::<false>().transpose()?;
        let value = match field {
            Ok(RawField { number, value: Raw::Varint(value), .. }) => Ok((number, Value::Varint(value))),
            Ok(RawField { number, value: Raw::Bytes(bytes), .. }) => Ok((number, Value::Bytes(bytes))),
            wrong => {
                self.cursor = Cursor::new(&[]);
                Err(no_field(wrong))
            }
        };
        Some(value)
    }
}

#[cold]
fn no_field(wrong: Result<RawField<'_>, WireError>) -> Malformed {
    Malformed(match wrong {
        Ok(field) => format!("field {} is of a type that no message of ours has", field.number),
        Err(error) => error.to_string(),
    })
}

impl<'a> Value<'a> {
    #[inline]
    pub fn uint(self) -> Result<u64, Malformed> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Bytes(_) => Err(Malformed("bytes where a number belongs".into())),
        }
    }

    #[inline]
    pub fn uint32(self) -> Result<u32, Malformed> {
        let value = self.uint()?;
        u32::try_from(value).map_err(|_| Malformed(format!("{value} does not fit 32 bits")))
    }

    #[inline]
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) => Err(Malformed("a number where bytes belong".into())),
        }
    }

    #[inline]
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("text that is not UTF-8".into()))
    }

    #[inline]
    pub fn array<const N: usize>(self, what: &str) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| Malformed(format!("{what} has {} bytes, not {N}", bytes.len())))
    }
}
