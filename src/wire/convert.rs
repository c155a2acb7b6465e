//! Ids as text and as bytes. What is printed is read back as the same value, and nothing else is read.

use crate::pb;
use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Incarnation, Position};
use std::{fmt, str::FromStr};

/// Where a reader has got to: a read with this token sees at least `position`, in this incarnation and no other.
/// Opaque to clients; printed as `position@incarnation`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    pub incarnation: Incarnation,
    pub position: Position,
}

/// Text or bytes that are not what they should be. Says what was expected and what came instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{given} is not {expected}: {problem}")]
pub struct ConvertError {
    /// With its article: `an event id`.
    pub expected: &'static str,
    /// Quoted, and cut where it is long.
    pub given: String,
    pub problem: String,
}

/// 64 hex digits.
pub fn parse_hash(text: &str) -> Result<Hash, ConvertError> {
    digits::<32>("a hash", text, text).map(Hash)
}

/// 32 hex digits.
pub fn parse_incarnation(text: &str) -> Result<Incarnation, ConvertError> {
    digits::<16>("an incarnation", text, text).map(Incarnation)
}

/// `seen-nonce`. A nonce without the position that was seen is refused: it cannot be told from an old one.
pub fn parse_event_id(text: &str) -> Result<EventId, ConvertError> {
    const EXPECTED: &str = "an event id";
    let Some((seen, nonce)) = text.split_once('-') else {
        let problem = "write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…";
        return Err(error(EXPECTED, text, problem));
    };
    if seen.is_empty() {
        return Err(error(
            EXPECTED,
            text,
            "the position that was seen is missing before the nonce",
        ));
    }
    Ok(EventId {
        seen: Position(decimal(EXPECTED, text, seen)?),
        nonce: digits(EXPECTED, text, nonce)?,
    })
}

pub fn hash_from_bytes(bytes: &[u8]) -> Result<Hash, ConvertError> {
    array("a hash", bytes).map(Hash)
}

pub fn incarnation_from_bytes(bytes: &[u8]) -> Result<Incarnation, ConvertError> {
    array("an incarnation", bytes).map(Incarnation)
}

pub fn hash_to_bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

impl From<EventId> for pb::EventId {
    fn from(id: EventId) -> Self {
        pb::EventId {
            seen: id.seen.0,
            nonce: Bytes::copy_from_slice(&id.nonce),
        }
    }
}

impl TryFrom<&pb::EventId> for EventId {
    type Error = ConvertError;

    fn try_from(id: &pb::EventId) -> Result<Self, ConvertError> {
        Ok(EventId {
            seen: Position(id.seen),
            nonce: array("a nonce", &id.nonce)?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.incarnation)
    }
}

impl FromStr for Token {
    type Err = ConvertError;

    fn from_str(text: &str) -> Result<Self, ConvertError> {
        const EXPECTED: &str = "a token";
        let Some((position, incarnation)) = text.split_once('@') else {
            return Err(error(EXPECTED, text, "hand back a token as it came in an answer"));
        };
        Ok(Token {
            incarnation: Incarnation(digits(EXPECTED, text, incarnation)?),
            position: Position(decimal(EXPECTED, text, position)?),
        })
    }
}

fn digits<const N: usize>(expected: &'static str, whole: &str, part: &str) -> Result<[u8; N], ConvertError> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(part, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(hex::FromHexError::InvalidHexCharacter { c, .. }) => {
            Err(error(expected, whole, format!("{c:?} is no hex digit")))
        }
        Err(_) => Err(error(
            expected,
            whole,
            format!("{} hex digits, not {}", part.chars().count(), 2 * N),
        )),
    }
}

/// Canonical decimal: one number, one text.
fn decimal(expected: &'static str, whole: &str, part: &str) -> Result<u64, ConvertError> {
    match part.parse::<u64>() {
        Ok(number) if number.to_string() == part => Ok(number),
        _ => Err(error(expected, whole, format!("{part:?} is no position"))),
    }
}

fn array<const N: usize>(expected: &'static str, bytes: &[u8]) -> Result<[u8; N], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError {
        expected,
        given: format!("a value of {} bytes", bytes.len()),
        problem: format!("it has {N}"),
    })
}

fn error(expected: &'static str, given: &str, problem: impl Into<String>) -> ConvertError {
    const SHOWN: usize = 80;
    let mut shown: String = given.chars().take(SHOWN).collect();
    if shown.len() < given.len() {
        shown.push('…');
    }
    ConvertError {
        expected,
        given: format!("{shown:?}"),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(seen: u64, position: u64, nonce: [u8; 16], incarnation: [u8; 16], hash: [u8; 32]) {
            let id = EventId { seen: Position(seen), nonce };
            prop_assert_eq!(parse_event_id(&id.to_string()), Ok(id));
            prop_assert_eq!(EventId::try_from(&pb::EventId::from(id)), Ok(id));
            let token = Token { incarnation: Incarnation(incarnation), position: Position(position) };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            prop_assert_eq!(parse_hash(&Hash(hash).to_string()), Ok(Hash(hash)));
            prop_assert_eq!(hash_from_bytes(&hash_to_bytes(&Hash(hash))), Ok(Hash(hash)));
            prop_assert_eq!(parse_incarnation(&Incarnation(incarnation).to_string()), Ok(Incarnation(incarnation)));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "\\PC*") {
            let _ = (parse_event_id(&text), parse_hash(&text), parse_incarnation(&text), text.parse::<Token>());
        }
    }

    #[test]
    fn a_refusal_says_what_was_expected_and_what_came() {
        let nonce = "0f".repeat(16);
        let lines: Vec<String> = [
            parse_event_id("4182").map(drop),
            parse_event_id(&format!("-{nonce}")).map(drop),
            parse_event_id(&format!("007-{nonce}")).map(drop),
            parse_event_id(&format!("7-{}", &nonce[2..])).map(drop),
            parse_event_id(&format!("7-{}", nonce.replace('f', "g"))).map(drop),
            parse_event_id(&"9".repeat(200)).map(drop),
            "4182".parse::<Token>().map(drop),
            format!("-1@{nonce}").parse::<Token>().map(drop),
            parse_hash("").map(drop),
            hash_from_bytes(&[1, 2, 3]).map(drop),
        ]
        .into_iter()
        .map(|result| result.unwrap_err().to_string())
        .collect();
        expect![[r#"
            "4182" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
            "-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" is not an event id: the position that was seen is missing before the nonce
            "007-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" is not an event id: "007" is no position
            "7-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" is not an event id: 30 hex digits, not 32
            "7-0g0g0g0g0g0g0g0g0g0g0g0g0g0g0g0g" is not an event id: 'g' is no hex digit
            "99999999999999999999999999999999999999999999999999999999999999999999999999999999…" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
            "4182" is not a token: hand back a token as it came in an answer
            "-1@0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" is not a token: "-1" is no position
            "" is not a hash: 0 hex digits, not 64
            a value of 3 bytes is not a hash: it has 32"#]].assert_eq(&lines.join("\n"));
    }
}
