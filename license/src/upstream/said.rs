//! What a service says besides the licence, for the record of the decision. Its members are not known here, and records may hold
//! no secret: so whatever has room for a key stands there by its length alone.

use serde_json::{Map, Value};

/// The most that is recorded of one answer, in bytes of JSON.
const MOST: usize = 4 << 10;

/// The longest string of it, in bytes.
const LONGEST: usize = 256;

/// The most members or values of one object or array.
const WIDEST: usize = 32;

/// Objects within objects.
const DEEPEST: usize = 4;

/// As many characters of base64, its padding apart, as 16 bytes need; in hexadecimal they need more.
const KEY_CHARACTERS: usize = 22;

/// What is recorded of these members.
pub(super) fn recorded(members: &Map<String, Value>) -> Map<String, Value> {
    let recorded = object(members, DEEPEST);
    match Value::Object(recorded.clone()).to_string().len() {
        ..=MOST => recorded,
        len => Map::from_iter([("omitted".to_owned(), length(len, "bytes"))]),
    }
}

fn object(members: &Map<String, Value>, depth: usize) -> Map<String, Value> {
    let members = members.iter().take(WIDEST);
    let members = members.filter(|(name, _)| is_short(name) && !may_hold_key(name));
    members
        .map(|(name, it)| (name.clone(), value(it, depth)))
        .collect()
}

fn value(it: &Value, depth: usize) -> Value {
    match it {
        Value::Null | Value::Bool(_) | Value::Number(_) => it.clone(),
        Value::String(text) if is_short(text) && !may_hold_key(text) => it.clone(),
        Value::String(text) => length(text.len(), "bytes"),
        // Bytes or words of a key would be numbers.
        Value::Array(values) if depth == 0 || values.iter().any(Value::is_number) => {
            length(values.len(), "values")
        }
        Value::Array(values) => {
            let values = values.iter().take(WIDEST);
            values.map(|it| value(it, depth - 1)).collect()
        }
        Value::Object(members) if depth == 0 => length(members.len(), "members"),
        Value::Object(members) => Value::Object(object(members, depth - 1)),
    }
}

fn length(len: usize, of: &str) -> Value {
    Value::String(format!("({len} {of})"))
}

fn is_short(text: &str) -> bool {
    text.len() <= LONGEST
}

/// Whether the text has room for 16 bytes in base64 in one piece, or in hexadecimal, however its digits are grouped. Names of
/// protocols, in letters of one case, have none: of 100 million random keys, one would be written so.
fn may_hold_key(text: &str) -> bool {
    let is_digit = |it: char| it.is_ascii_alphanumeric() || "+/-_".contains(it);
    let is_name = |run: &str| {
        let of = |of_case: fn(&u8) -> bool| run.bytes().all(|it| of_case(&it) || it == b'_');
        of(u8::is_ascii_uppercase) || of(u8::is_ascii_lowercase)
    };
    let mut runs = text.split(|it| !is_digit(it));
    let mut groups = text.split(|it: char| !it.is_ascii_hexdigit() && !" :.,-_xX\\".contains(it));
    let hexadecimal = |group: &str| group.chars().filter(char::is_ascii_hexdigit).count();
    runs.any(|run| run.len() >= KEY_CHARACTERS && !is_name(run))
        || groups.any(|group| hexadecimal(group) >= 32)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    fn of(value: &Value) -> Value {
        match value {
            Value::Object(members) => Value::Object(recorded(members)),
            _ => panic!("members are an object's"),
        }
    }

    #[test]
    fn what_describes_a_device_is_recorded() {
        let said = json!({
            "make": "Maker", "model": "TV 3000", "security_level": 1, "internal_status": 0,
            "license_metadata": { "content_id": "film", "license_type": "STREAMING" },
            "platform_verification_status": "PLATFORM_TAMPERED_BEYOND_ALL_REPAIR",
            "supported_tracks": [{ "type": "SD" }], "of_the_future": null, "is_new": true,
        });
        assert_eq!(of(&said), said);
    }

    #[test]
    fn what_has_room_for_a_key_is_recorded_by_its_length_alone() {
        let key = [
            0xfb, 0x1f, 3, 0x84, 5, 0x36, 7, 8, 0xf9, 10, 11, 0x7c, 13, 14, 15, 16,
        ];
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let grouped: Vec<_> = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut written = vec![
            STANDARD.encode(key),
            STANDARD_NO_PAD.encode(key),
            URL_SAFE_NO_PAD.encode(key),
            hex.to_uppercase(),
            format!("the key is {hex}."),
            grouped.join(":"),
            grouped.join(" "),
            format!("key={}", grouped.join(":")),
            format!("it is 0x{}", grouped.join(" 0x")),
            format!(
                "{}-{}-{}-{}-{}",
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..]
            ),
            "x y ".repeat(LONGEST),
        ];
        written.push(hex);
        for text in written {
            let len = format!("({} bytes)", text.len());
            let said = json!({ "a": text, "b": { "c": [text] }, (text.clone()): 1 });
            assert_eq!(
                of(&said),
                json!({ "a": len, "b": { "c": [len] } }),
                "{text}"
            );
        }
        let bytes = json!({ "bytes": key, "words": [1, 2, 3, 4] });
        let lengths = json!({ "bytes": "(16 values)", "words": "(4 values)" });
        assert_eq!(of(&bytes), lengths);
    }

    #[test]
    fn what_is_recorded_is_bounded() {
        let wide: Map<_, _> = (0..1000)
            .map(|at| (format!("m{at}"), json!("x y")))
            .collect();
        assert_eq!(recorded(&wide).len(), WIDEST);
        let full: Map<_, _> = (0..30)
            .map(|at| (format!("m{at}"), json!("x y ".repeat(60))))
            .collect();
        let omitted = recorded(&full);
        assert_eq!(omitted.keys().collect::<Vec<_>>(), ["omitted"]);
        let mut deep = json!({ "x": 1 });
        for _ in 0..9 {
            deep = json!({ "in": deep });
        }
        let kept = json!({ "in": { "in": { "in": { "in": { "in": "(1 members)" } } } } });
        assert_eq!(of(&deep), kept);
    }
}
