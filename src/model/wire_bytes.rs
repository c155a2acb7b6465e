//! A cursor over protobuf wire bytes and the few writers that canonical encoding needs. It knows no schema.
//!
//! `STRICT` reading accepts the one canonical form of tags, lengths and varints; otherwise any form that a protobuf parser accepts.

use std::fmt;

/// The value of one field as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// One field of a message: its number, its value, and where its record (tag included) stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawField<'a> {
    pub number: u32,
    pub value: Raw<'a>,
    /// Offset of the tag's first byte.
    pub start: usize,
    /// Offset of the first byte after the value.
    pub end: usize,
}

/// Why bytes cannot be read. `number` of the field where it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    Truncated,
    VarintTooLong,
    VarintNotMinimal,
    BadFieldNumber,
    Group,
    BadWireType(u8),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated => f.write_str("the bytes end inside a field"),
            WireError::VarintTooLong => f.write_str("a varint is longer than 64 bits"),
            WireError::VarintNotMinimal => f.write_str("a varint is not in its shortest form"),
            WireError::BadFieldNumber => f.write_str("a field number is not within 1 to 536870911"),
            WireError::Group => f.write_str("groups are not supported"),
            WireError::BadWireType(wire_type) => write!(f, "wire type {wire_type} does not exist"),
        }
    }
}

impl std::error::Error for WireError {}

pub const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

/// Reads from the front. After an error the position is unspecified.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field, or `None` at the end.
    #[inline(always)]
    pub fn field<const STRICT: bool>(&mut self) -> Result<Option<RawField<'a>>, WireError> {
        if self.is_empty() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.tag::<STRICT>()?;
        let number = tag >> 3;
        let value = match tag & 7 {
            0 => Raw::Varint(self.varint::<STRICT>()?),
            1 => Raw::Fixed64(self.fixed64()?),
            2 => Raw::Bytes(self.bytes::<STRICT>()?),
            3 | 4 => return Err(WireError::Group),
            5 => Raw::Fixed32(self.fixed32()?),
            other => return Err(WireError::BadWireType(other as u8)),
        };
        Ok(Some(RawField { number, value, start, end: self.at }))
    }

    /// Where the next byte stands.
    #[inline]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// A field number, shifted by 3, and a wire type, which may be one that does not exist.
    #[inline(always)]
    pub fn tag<const STRICT: bool>(&mut self) -> Result<u32, WireError> {
        let tag = self.varint::<STRICT>()?;
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok(tag),
            _ => Err(WireError::BadFieldNumber),
        }
    }

    /// A length and as many bytes.
    #[inline(always)]
    pub fn bytes<const STRICT: bool>(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint::<STRICT>()?;
        self.take(usize::try_from(length).map_err(|_| WireError::Truncated)?)
    }

    #[inline(always)]
    pub fn varint<const STRICT: bool>(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint::<STRICT>(),
        }
    }

    #[inline]
    pub fn fixed32(&mut self) -> Result<u32, WireError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| WireError::Truncated)?))
    }

    #[inline]
    pub fn fixed64(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| WireError::Truncated)?))
    }

    #[inline(always)]
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(WireError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn long_varint<const STRICT: bool>(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for index in 0..10 {
            let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            if index == 9 && byte > 1 {
                return Err(WireError::VarintTooLong);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // A last byte of 0 adds nothing: the same number has a shorter form.
                return if STRICT && byte == 0 && index > 0 { Err(WireError::VarintNotMinimal) } else { Ok(value) };
            }
        }
        Err(WireError::VarintTooLong)
    }
}

/// The fields of a message whose bytes were checked before; ends early where they were not.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = RawField<'_>> {
    let mut cursor = Cursor::new(bytes);
    std::iter::from_fn(move || cursor.field::<false>().ok().flatten())
}

/// Appends a minimal varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// A length-delimited field: tag, length, bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint<const STRICT: bool>(bytes: &[u8]) -> Result<u64, WireError> {
        Cursor::new(bytes).varint::<STRICT>()
    }

    #[test]
    fn what_is_written_is_read_and_is_minimal() {
        for value in [0, 1, 127, 128, 300, 16383, 16384, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint::<true>(&out), Ok(value));
        }
    }

    #[test]
    fn strict_reading_refuses_longer_forms_and_both_refuse_more_than_64_bits() {
        assert_eq!(varint::<true>(&[0x80, 0x00]), Err(WireError::VarintNotMinimal));
        assert_eq!(varint::<false>(&[0x80, 0x00]), Ok(0));
        assert_eq!(varint::<false>(&[0x81, 0x80, 0x00]), Ok(1));
        let mut ten = [0xff; 10];
        ten[9] = 1;
        assert_eq!(varint::<true>(&ten), Ok(u64::MAX));
        ten[9] = 2;
        assert_eq!(varint::<false>(&ten), Err(WireError::VarintTooLong));
        ten[9] = 0x81;
        assert_eq!(varint::<false>(&ten), Err(WireError::VarintTooLong));
        assert_eq!(varint::<false>(&[0x80]), Err(WireError::Truncated));
        assert_eq!(varint::<false>(&[]), Err(WireError::Truncated));
    }

    #[test]
    fn fields_carry_number_value_and_place() {
        let mut out = Vec::new();
        put_tag(&mut out, 1, 0);
        put_varint(&mut out, 300);
        put_bytes(&mut out, 2047, b"ab");
        let read: Vec<_> = fields(&out).collect();
        assert_eq!(read[0], RawField { number: 1, value: Raw::Varint(300), start: 0, end: 3 });
        assert_eq!(read[1], RawField { number: 2047, value: Raw::Bytes(b"ab"), start: 3, end: 8 });
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn malformed_fields_are_errors() {
        for (bytes, error) in [
            (&[0x00][..], WireError::BadFieldNumber),
            (&[0x02, 0x00], WireError::BadFieldNumber),
            (&[0x80, 0x80, 0x80, 0x80, 0x10, 0x00], WireError::BadFieldNumber),
            (&[0x0b], WireError::Group),
            (&[0x0c], WireError::Group),
            (&[0x0e], WireError::BadWireType(6)),
            (&[0x0f], WireError::BadWireType(7)),
            (&[0x0a, 0x02, 0x00], WireError::Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], WireError::Truncated),
            (&[0x0d, 0, 0, 0], WireError::Truncated),
            (&[0x09, 0, 0, 0, 0, 0, 0, 0], WireError::Truncated),
            (&[0x08], WireError::Truncated),
        ] {
            assert_eq!(Cursor::new(bytes).field::<false>(), Err(error), "{bytes:02x?}");
        }
    }
}
