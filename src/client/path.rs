//! Paths as text, put together so that any key can stand in one.

use std::fmt::{self, Display, Write};

/// A path such as `/devices/olt-1/ports/3`. Anything that takes a path takes its text as well.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PathText(String);

impl PathText {
    /// `/`
    pub fn root() -> PathText {
        PathText::default()
    }

    /// A child field by its name.
    pub fn child(mut self, name: &str) -> PathText {
        self.0.push('/');
        self.0.push_str(name);
        self
    }

    /// The element with this key: a string, or an integer in decimal. Encoded as paths need it.
    pub fn key(mut self, key: impl Display) -> PathText {
        self.0.push('/');
        self.0.push_str(&encode_key(&key.to_string()));
        self
    }

    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }
}

impl AsRef<str> for PathText {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Display for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key as it stands in a path: letters, digits and `-._~` as they are, every other byte as `%XX`, and so are the dots
/// of the keys `.` and `..`.
pub fn encode_key(key: &str) -> String {
    let dots = matches!(key, "." | "..");
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if !dots && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')) {
            text.push(char::from(byte));
        } else {
            _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// A path below another one. All leading slashes of `path` and one at its end are dropped (K1, K2).
pub(crate) fn join(scope: &str, path: &str) -> String {
    let relative = path.trim_start_matches('/');
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    match (scope.trim_end_matches('/'), relative) {
        ("", "") => "/".to_owned(),
        ("", relative) => format!("/{relative}"),
        (scope, "") => scope.to_owned(),
        (scope, relative) => format!("{scope}/{relative}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // K1, K2
    #[test]
    fn a_scope_and_a_path_are_one_path() {
        for (scope, path, joined) in [
            ("/", "", "/"),
            ("/", "/", "/"),
            ("/", "///devices", "/devices"),
            ("/devices/olt-1", "", "/devices/olt-1"),
            ("/devices/olt-1", "/ports/3/", "/devices/olt-1/ports/3"),
            ("/devices", "olt-1", "/devices/olt-1"),
        ] {
            assert_eq!(join(scope, path), joined, "{scope:?} {path:?}");
        }
    }

    proptest::proptest! {
        // K4: what is encoded here is the one text that a store reads as that key.
        #[test]
        fn an_encoded_key_is_a_path_of_its_own(key in "\\PC{1,60}") {
            let path = PathText::root().child("devices").key(&key);
            let parsed = schema().parse_path(path.as_str());
            proptest::prop_assert!(parsed.is_ok(), "{path}: {parsed:?}");
            let parsed = parsed.unwrap();
            proptest::prop_assert_eq!(parsed.steps[0].key.as_deref(), Some(key.as_bytes()));
            proptest::prop_assert_eq!(schema().print_path(&parsed), path.as_str());
        }
    }

    fn schema() -> &'static confold_model::schema::Schema {
        static SCHEMA: std::sync::LazyLock<confold_model::schema::Schema> = std::sync::LazyLock::new(|| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/examples");
            let compiled = confold_wire::schema_source::descriptor_set_of(&folder, &[]).unwrap();
            confold_model::schema::Schema::compile(&compiled.descriptor_set, "example.Network").unwrap()
        });
        &SCHEMA
    }

    // K4
    #[test]
    fn any_key_can_stand_in_a_path() {
        let path = PathText::root()
            .child("devices")
            .key("sw/core 1:é*%")
            .child("ports")
            .key(-3);
        assert_eq!(path.as_str(), "/devices/sw%2Fcore%201%3A%C3%A9%2A%25/ports/-3");
        assert_eq!(PathText::root().child("devices").key("..").as_str(), "/devices/%2E%2E");
        assert_eq!(PathText::root().to_string(), "/");
    }
}
