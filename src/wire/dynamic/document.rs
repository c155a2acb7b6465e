//! JSON and YAML texts as values, stricter than the libraries: no key twice, bounded nesting, bounded size.

use super::{DynamicError, MAX_NESTING};
use confold_model::code::Code;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{cell::Cell, fmt};

pub(super) fn json(text: &str) -> Result<Value, DynamicError> {
    let mut source = serde_json::Deserializer::from_str(text);
    // Our own bound is tighter and says so in its own words.
    let value = strict(text, &mut source).and_then(|value| source.end().map(|()| value));
    value.map_err(|error| {
        let at = format!("line {} column {}", error.line(), error.column());
        failure(at.clone(), error.to_string().replace(&format!(" at {at}"), ""))
    })
}

pub(super) fn yaml(text: &str) -> Result<Value, DynamicError> {
    strict(text, serde_yaml_ng::Deserializer::from_str(text)).map_err(|error| {
        let place = error
            .location()
            .map(|at| format!("line {} column {}", at.line(), at.column()))
            .unwrap_or_default();
        failure(place.clone(), error.to_string().replace(&format!(" at {place}"), ""))
    })
}

fn failure(at: String, problem: String) -> DynamicError {
    let code = if problem.contains(TOO_DEEP) || problem.contains("recursion limit") || problem.contains(TOO_MANY) {
        Code::Limit
    } else {
        Code::TypeMismatch
    };
    DynamicError {
        at,
        ..DynamicError::new(code, problem)
    }
}

const TOO_DEEP: &str = "nested deeper than";
const TOO_MANY: &str = "aliases repeat more than the text is long";

/// One value and what is in it.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: u32,
    /// A text without aliases cannot have more values than characters.
    left: &'a Cell<usize>,
}

fn strict<'de, D: Deserializer<'de>>(text: &str, source: D) -> Result<Value, D::Error> {
    Strict {
        depth: 0,
        left: &Cell::new(text.len() + 1),
    }
    .deserialize(source)
}

impl Strict<'_> {
    fn nested<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_NESTING {
            return Err(E::custom(format!("{TOO_DEEP} {MAX_NESTING}")));
        }
        Ok(Strict {
            depth: self.depth + 1,
            ..self
        })
    }

    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom(TOO_MANY))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.count()?;
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    // YAML has numbers that JSON has not; the JSON mapping writes them as strings.
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(serde_json::Number::from_f64(value)
            .map_or_else(|| Value::String(super::write::special(value).to_owned()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let nested = self.nested()?;
        let mut items = Vec::new();
        while let Some(item) = source.next_element_seed(nested)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let nested = self.nested()?;
        let mut map = Map::new();
        while let Some(key) = source.next_key_seed(nested)? {
            // YAML's keys may be numbers; the JSON mapping writes those as strings too.
            let key = match key {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                Value::Bool(key) => key.to_string(),
                _ => return Err(A::Error::custom("a key that is neither text nor a number")),
            };
            let value = source.next_value_seed(nested)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} stands here twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
