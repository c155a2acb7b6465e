//! Reads with GET: a query string as a request.
//!
//! Every parameter is a field of the request by its name. What says which state to read (`at`, `consistency`, `token`,
//! `deadline_ms`, `schema_of_its_time`) may stand beside the others instead of inside `read`; in a diff `from` and `to`
//! are states. Values come as JSON unless `format` says otherwise.

use super::Refusal;
use confold_model::code::Code;
use percent_encoding::percent_decode_str;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json};

/// A read's friendlier name.
pub(super) struct Form {
    pub name: &'static str,
    /// The method it calls.
    pub method: &'static str,
    /// The field that takes what says which state to read; empty where there is none.
    read: &'static str,
}

pub(super) const FORMS: [Form; 11] = [
    Form {
        name: "get",
        method: "Get",
        read: "read",
    },
    Form {
        name: "list",
        method: "List",
        read: "read",
    },
    Form {
        name: "diff",
        method: "Diff",
        read: "to",
    },
    Form {
        name: "log",
        method: "Log",
        read: "read",
    },
    Form {
        name: "show",
        method: "Show",
        read: "",
    },
    Form {
        name: "status",
        method: "Status",
        read: "",
    },
    Form {
        name: "stores",
        method: "ListStores",
        read: "",
    },
    Form {
        name: "tags",
        method: "ListTags",
        read: "read",
    },
    Form {
        name: "schema",
        method: "GetSchema",
        read: "read",
    },
    Form {
        name: "retention",
        method: "GetRetention",
        read: "",
    },
    Form {
        name: "outcome",
        method: "Outcome",
        read: "",
    },
];

pub(super) fn method_of(name: &str) -> Option<&'static Form> {
    FORMS.iter().find(|form| form.name == name)
}

/// The request as JSON, to be read like one that was posted.
pub(super) fn request(form: &Form, request: &MessageDescriptor, query: &str) -> Result<Json, Refusal> {
    let mut fields = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (unescape(name)?, unescape(value)?);
        set(form, request, &mut fields, &name, &value)?;
    }
    if request.get_field_by_name("format").is_some() && !fields.contains_key("format") {
        fields.insert("format".to_owned(), Json::String("FORMAT_JSON".to_owned()));
    }
    Ok(Json::Object(fields))
}

/// The value of the only parameter that there is; any other is refused.
pub(super) fn one(query: &str, only: &str) -> Result<Option<String>, Refusal> {
    let mut found = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = unescape(name)?;
        if name != only {
            let what = format!("there is no parameter {:?} here", shown(&name));
            return Err(Refusal::new(Code::UnknownField, what).hint(format!("it has {only}")));
        }
        if found.replace(unescape(value)?).is_some() {
            return Err(refuse(format!("{only} is given twice")));
        }
    }
    Ok(found)
}

fn set(
    form: &Form,
    request: &MessageDescriptor,
    fields: &mut Map<String, Json>,
    name: &str,
    value: &str,
) -> Result<(), Refusal> {
    match request.get_field_by_name(name).map(|field| (field.kind(), field)) {
        // A message cannot be written in a query; but a diff's `from` and `to` are states to read.
        Some((Kind::Message(message), _)) if name != "read" && message.get_field_by_name("at").is_some() => {
            put_inside(fields, name, name, "at", Json::String(value.to_owned()))
        }
        Some((Kind::Message(_), _)) => Err(unknown(form, request, name)),
        Some((_, field)) if field.is_list() => {
            let items = fields.entry(name).or_insert_with(|| Json::Array(Vec::new()));
            if let Json::Array(items) = items {
                items.extend(value.split(',').map(|item| Json::String(item.to_owned())));
            }
            Ok(())
        }
        Some((_, field)) => put(fields, name, name, scalar(&field, value)?),
        None => match read_field(form, request, name) {
            Some(field) => put_inside(fields, form.read, name, name, scalar(&field, value)?),
            None => Err(unknown(form, request, name)),
        },
    }
}

fn read_field(form: &Form, request: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    match request.get_field_by_name(form.read)?.kind() {
        Kind::Message(read) => read.get_field_by_name(name),
        _ => None,
    }
}

fn put_inside(
    fields: &mut Map<String, Json>,
    outer: &str,
    given: &str,
    name: &str,
    value: Json,
) -> Result<(), Refusal> {
    match fields.entry(outer).or_insert_with(|| Json::Object(Map::new())) {
        Json::Object(inside) => put(inside, given, name, value),
        // Under the name of a message nothing else is put.
        _ => Err(refuse(format!("{given} is given twice"))),
    }
}

fn put(fields: &mut Map<String, Json>, given: &str, name: &str, value: Json) -> Result<(), Refusal> {
    match fields.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(refuse(format!("{given} is given twice"))),
    }
}

fn scalar(field: &FieldDescriptor, value: &str) -> Result<Json, Refusal> {
    Ok(match field.kind() {
        // `?brief` is enough.
        Kind::Bool => match value {
            "" | "true" | "1" => Json::Bool(true),
            "false" | "0" => Json::Bool(false),
            other => {
                return Err(refuse(format!(
                    "{} is true or false, not {:?}",
                    field.name(),
                    shown(other)
                )));
            }
        },
        Kind::Enum(kind) => Json::String(enum_name(&kind, value)),
        _ => Json::String(value.to_owned()),
    })
}

/// `json` for `FORMAT_JSON`; what is no value at all is left for the reader of JSON to refuse.
fn enum_name(kind: &EnumDescriptor, value: &str) -> String {
    let suffix = format!("_{}", value.to_ascii_uppercase().replace('-', "_"));
    let short = kind.values().find(|known| known.name().ends_with(&suffix));
    short.map_or_else(|| value.to_owned(), |known| known.name().to_owned())
}

fn unknown(form: &Form, request: &MessageDescriptor, name: &str) -> Refusal {
    let mut known: Vec<String> = Vec::new();
    for field in request.fields() {
        match field.kind() {
            Kind::Message(read) if field.name() == form.read => {
                known.extend(read.fields().map(|field| field.name().to_owned()));
                if field.name() != "read" {
                    known.push(field.name().to_owned());
                }
            }
            _ => known.push(field.name().to_owned()),
        }
    }
    known.sort();
    Refusal::new(
        Code::UnknownField,
        format!("{} has no parameter {:?}", form.name, shown(name)),
    )
    .hint(format!("it has {}", known.join(", ")))
}

fn unescape(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| refuse(format!("{:?} is not UTF-8", shown(text))))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn refuse(detail: String) -> Refusal {
    Refusal::new(Code::TypeMismatch, detail)
}
