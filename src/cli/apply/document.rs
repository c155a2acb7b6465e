//! Documents as a sequence of parts, so that a big one need not be in memory as a whole.
//!
//! A document is a mapping. Its keys are either all field names of the root message, or all paths. JSON is read as it
//! comes; of YAML one document (up to `---`) is held at a time.

use crate::{error::Failure, values::ValueFormat};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};
use std::{
    fmt,
    io::{BufReader, Read},
};

/// A piece of a document, in the order of the text.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    /// A key, and a value that is no list.
    Value {
        key: String,
        value: Json,
    },
    /// A key, and one element of its list.
    Element {
        key: String,
        index: usize,
        value: Json,
    },
    /// The list of this key is over; it may have been empty.
    ListEnd {
        key: String,
    },
    DocumentEnd,
}

/// Takes a part; `Err` stops the reading.
pub type Sink<'a> = dyn FnMut(Part) -> Result<(), Failure> + 'a;

/// Reads all documents of one text. `name` is for messages.
pub fn read(name: &str, format: ValueFormat, input: impl Read, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let mut outer = Outer { sink, failure: None };
    let result = match format {
        ValueFormat::Json => json(input, &mut outer),
        _ => yaml(input, &mut outer),
    };
    match (outer.failure, result) {
        (Some(failure), _) => Err(failure),
        (None, Err(text)) => Err(Failure::invalid(format!("{name}: {text}"))),
        (None, Ok(())) => Ok(()),
    }
}

/// The parts of a document that is in memory already.
pub fn parts(value: Json, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let Json::Object(map) = value else {
        return Err(Failure::invalid(
            "a document is a mapping from field names or paths to values",
        ));
    };
    for (key, value) in map {
        match value {
            Json::Array(items) => {
                for (index, value) in items.into_iter().enumerate() {
                    sink(Part::Element {
                        key: key.clone(),
                        index,
                        value,
                    })?;
                }
                sink(Part::ListEnd { key })?;
            }
            value => sink(Part::Value { key, value })?,
        }
    }
    sink(Part::DocumentEnd)
}

fn json(input: impl Read, outer: &mut Outer<'_, '_>) -> Result<(), String> {
    let mut source = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, input));
    loop {
        // Several documents may follow each other.
        if source.end().is_ok() {
            return Ok(());
        }
        (&mut *outer)
            .deserialize(&mut source)
            .map_err(|error| error.to_string())?;
    }
}

fn yaml(input: impl Read, outer: &mut Outer<'_, '_>) -> Result<(), String> {
    for document in serde_yaml_ng::Deserializer::from_reader(BufReader::new(input)) {
        (&mut *outer).deserialize(document).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The mapping that is the document.
struct Outer<'s, 'f> {
    sink: &'s mut Sink<'f>,
    /// Why the sink stopped; the parser's own error then says nothing.
    failure: Option<Failure>,
}

impl Outer<'_, '_> {
    fn send<E: Error>(&mut self, part: Part) -> Result<(), E> {
        (self.sink)(part).map_err(|failure| {
            self.failure = Some(failure);
            E::custom("stopped")
        })
    }
}

impl<'de> DeserializeSeed<'de> for &mut Outer<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Outer<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping from field names or paths to values")
    }

    /// An empty YAML document.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    /// An empty YAML file.
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<(), A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        while let Some(key) = source.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{key:?} stands here twice")));
            }
            source.next_value_seed(Entry { key, outer: self })?;
        }
        self.send(Part::DocumentEnd)
    }
}

/// What stands behind one key of the document.
struct Entry<'o, 's, 'f> {
    key: String,
    outer: &'o mut Outer<'s, 'f>,
}

impl Entry<'_, '_, '_> {
    fn value<E: Error>(self, value: Json) -> Result<(), E> {
        self.outer.send(Part::Value { key: self.key, value })
    }
}

impl<'de> DeserializeSeed<'de> for Entry<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(value) = source.next_element_seed(Inner)? {
            self.outer.send(Part::Element {
                key: self.key.clone(),
                index,
                value,
            })?;
            index += 1;
        }
        self.outer.send(Part::ListEnd { key: self.key })
    }

    fn visit_map<A: MapAccess<'de>>(self, source: A) -> Result<(), A::Error> {
        let value = Inner.visit_map(source)?;
        self.value(value)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.value(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.value(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.value(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.value(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        let value = Inner.visit_f64(value)?;
        self.value(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.value(Json::String(value.to_owned()))
    }
}

/// Any value; no key twice.
#[derive(Clone, Copy)]
struct Inner;

impl<'de> DeserializeSeed<'de> for Inner {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Json, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inner {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without tags")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    // YAML has numbers that JSON has not; protobuf's JSON mapping writes them as strings.
    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        let special = || match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (false, true) => "Infinity",
            (false, false) => "-Infinity",
        };
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Json::String(special().to_owned()), Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = source.next_element_seed(Inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Json, A::Error> {
        let mut map = Map::new();
        while let Some(key) = source.next_key_seed(Inner)? {
            // YAML's keys may be numbers; the JSON mapping writes those as strings too.
            let key = match key {
                Json::String(key) => key,
                Json::Number(key) => key.to_string(),
                Json::Bool(key) => key.to_string(),
                _ => return Err(A::Error::custom("a key that is neither text nor a number")),
            };
            let value = source.next_value_seed(Inner)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} stands here twice")));
            }
            map.insert(key, value);
        }
        Ok(Json::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(format: ValueFormat, text: &str, expected: &Expect) {
        let mut lines = Vec::new();
        let result = read("file", format, text.as_bytes(), &mut |part| {
            lines.push(match part {
                Part::Value { key, value } => format!("{key} = {value}"),
                Part::Element { key, index, value } => format!("{key}[{index}] = {value}"),
                Part::ListEnd { key } => format!("{key} ends"),
                Part::DocumentEnd => "end".to_owned(),
            });
            Ok(())
        });
        if let Err(failure) = result {
            lines.push(failure.detail.detail);
        }
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn json_is_read_element_by_element_and_document_by_document() {
        let text = r#"{"name": "a", "devices": [{"id": 1}, {"id": 2}], "none": []} {"/x": {"y": null}}"#;
        check(
            ValueFormat::Json,
            text,
            &expect![[r#"
            name = "a"
            devices[0] = {"id":1}
            devices[1] = {"id":2}
            devices ends
            none ends
            end
            /x = {"y":null}
            end"#]],
        );
    }

    #[test]
    fn yaml_documents_follow_each_other() {
        let text = "# only a comment\n---\nname: a\nratio: .inf\nlist: [1, {2: x}]\n---\n/devices/a: {id: a}\n";
        check(
            ValueFormat::Yaml,
            text,
            &expect![[r#"
            name = "a"
            ratio = "Infinity"
            list[0] = 1
            list[1] = {"2":"x"}
            list ends
            end
            /devices/a = {"id":"a"}
            end"#]],
        );
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_place() {
        check(
            ValueFormat::Json,
            "[1]",
            &expect![
                "file: invalid type: sequence, expected a mapping from field names or paths to values at line 1 column 2"
            ],
        );
        check(
            ValueFormat::Json,
            r#"{"a": 1, "a": 2}"#,
            &expect![[r#"
            a = 1
            file: "a" stands here twice at line 1 column 13"#]],
        );
        check(
            ValueFormat::Json,
            r#"{"a": {"b": 1, "b": 2}}"#,
            &expect![[r#"file: "b" stands here twice at line 1 column 22"#]],
        );
        check(
            ValueFormat::Json,
            r#"{"a": 1"#,
            &expect![[r#"
            a = 1
            file: EOF while parsing an object at line 1 column 7"#]],
        );
        check(
            ValueFormat::Yaml,
            "just text",
            &expect![[
                r#"file: invalid type: string "just text", expected a mapping from field names or paths to values"#
            ]],
        );
        check(
            ValueFormat::Yaml,
            "a: [1",
            &expect![[r#"
            a[0] = 1
            file: did not find expected ',' or ']' at line 2 column 1, while parsing a flow sequence at line 1 column 4"#]],
        );
        check(ValueFormat::Yaml, "", &expect![""]);
    }
}
