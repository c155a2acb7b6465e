//! Words of the command line with a grammar of their own.

use std::time::Duration;

/// `PATH:field.sub`, and what is to stand there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub path: String,
    pub field: String,
    pub value: String,
}

/// A field of a node: `/devices/olt-1:location.site`. A colon never stands in a path itself.
pub fn field_ref(text: &str) -> Result<(String, String), String> {
    let Some((path, field)) = text.split_once(':') else {
        return Err(format!(
            "{text}: no field is named; write PATH:field, as in /devices/olt-1:description"
        ));
    };
    if field.is_empty() || field.split('.').any(|name| !is_name(name)) {
        return Err(format!(
            "{text}: \"{field}\" is no field; write names with dots between them, as in location.site"
        ));
    }
    let path = if path.is_empty() { "/" } else { path };
    Ok((path.to_owned(), field.to_owned()))
}

/// `PATH:field.sub=VALUE`; everything behind the first `=` is the value.
pub fn assignment(text: &str) -> Result<Assignment, String> {
    let Some((target, value)) = text.split_once('=') else {
        return Err(format!(
            "{text}: no value; write PATH:field=VALUE, or `confold unset` to clear the field"
        ));
    };
    let (path, field) = field_ref(target)?;
    Ok(Assignment {
        path,
        field,
        value: value.to_owned(),
    })
}

/// `PATH=WORD`, as in `--put /devices/olt-1=olt-1.yaml`. A path holds no `=`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, word)) if !path.is_empty() && !word.is_empty() => Ok((path.to_owned(), word.to_owned())),
        _ => Err(format!("{text}: write PATH=…")),
    }
}

/// `30d`, `12h`, `1h30m`, `500ms`; weeks are the longest unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text}: no duration; write numbers with w, d, h, m, s or ms behind them, as in 30d or 1h30m");
    let mut rest = text;
    let mut total_ms = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let ms = match &rest[..unit] {
            "w" => 7 * 86_400_000,
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        rest = &rest[unit..];
        total_ms = number
            .checked_mul(ms)
            .and_then(|part| total_ms.checked_add(part))
            .ok_or_else(wrong)?;
    }
    // Milliseconds travel as an int64.
    if text.is_empty() || i64::try_from(total_ms).is_err() {
        return Err(wrong());
    }
    Ok(Duration::from_millis(total_ms))
}

/// `16MiB`, `512KiB`, `1000`: bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text}: no size; write a number of bytes, or one with KiB, MiB or GiB behind it");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// `30d`, `1h30m`: what `duration` reads, in the largest units.
pub fn duration_text(mut ms: u64) -> String {
    let mut text = String::new();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if ms >= size {
            text.push_str(&format!("{}{unit}", ms / size));
            ms %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `3 s ago`, in the largest unit that fits.
pub fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_path_field_and_value() {
        let assign = |path: &str, field: &str, value: &str| {
            Ok(Assignment {
                path: path.to_owned(),
                field: field.to_owned(),
                value: value.to_owned(),
            })
        };
        for (text, expected) in [
            (
                "/devices/olt-1:admin_state=ENABLED",
                assign("/devices/olt-1", "admin_state", "ENABLED"),
            ),
            (
                "/devices/sw%2Fcore:location.site=berlin=2:x",
                assign("/devices/sw%2Fcore", "location.site", "berlin=2:x"),
            ),
            (":name=", assign("/", "name", "")),
            ("/:name=a b", assign("/", "name", "a b")),
        ] {
            assert_eq!(assignment(text), expected, "{text}");
        }
        for text in [
            "",
            "/devices",
            "/devices/olt-1=x",
            "/devices/olt-1:=x",
            "/a:b..c=x",
            "/a:1b=x",
            "/a:b c=x",
            "/a:b",
        ] {
            assert!(assignment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("45s", 45_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
            ("2w1d", 1_296_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "d",
            "1y",
            "1.5h",
            "-1h",
            "1h 30m",
            "99999999999999999999s",
            "9999999999999999w",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for ms in [0, 1, 999, 61_000, 2_592_000_000, 90_061_001] {
            assert_eq!(duration(&duration_text(ms)), Ok(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn the_past_is_told_in_its_largest_unit() {
        for (ms, text) in [
            (-5, "0 s ago"),
            (3_999, "3 s ago"),
            (119_000, "119 s ago"),
            (120_000, "2 min ago"),
            (7_200_000, "2 h ago"),
            (86_400_000 * 2, "2 days ago"),
        ] {
            assert_eq!(ago(ms), text);
        }
    }

    #[test]
    fn sizes_are_bytes() {
        for (text, bytes) in [
            ("1000", 1000),
            ("0", 0),
            ("512KiB", 512 << 10),
            ("16MiB", 16 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "1 MiB", "1kb", "-1", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
