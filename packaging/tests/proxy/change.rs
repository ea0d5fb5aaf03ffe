//! Changes of manifests and boxes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Change;

/// A change of the text at paths that end so.
pub fn text(
    ends: &'static str,
    change: impl Fn(String) -> String + Send + Sync + 'static,
) -> Change {
    Box::new(move |path, answer| {
        if path.ends_with(ends) {
            let before = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
            answer.body = change(before).into_bytes();
        }
    })
}

/// A change of one word for another.
pub fn word(ends: &'static str, from: impl Into<String>, to: impl Into<String>) -> Change {
    let (from, to) = (from.into(), to.into());
    text(ends, move |before| {
        assert!(before.contains(&from), "no {from} in {before}");
        before.replace(&from, &to)
    })
}

/// A change of the XML in every PlayReady Object of an MPD.
pub fn playready(change: impl Fn(&str) -> String + Send + Sync + 'static) -> Change {
    text("main.mpd", move |mpd| {
        let mut out = String::new();
        let mut rest = mpd.as_str();
        while let Some((before, after)) = rest.split_once("<mspr:pro>") {
            let (object, after) = after.split_once('<').unwrap();
            let object = STANDARD.decode(object).unwrap();
            let units: Vec<u16> = (object[10..].as_chunks::<2>().0.iter())
                .map(|unit| u16::from_le_bytes(*unit))
                .collect();
            let xml = change(&String::from_utf16(&units).unwrap());
            let header: Vec<u8> = xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let len = u16::try_from(header.len()).unwrap();
            let object = [
                &(u32::from(len) + 10).to_le_bytes()[..],
                &[1, 0, 1, 0],
                &len.to_le_bytes(),
                &header,
            ]
            .concat();
            // The box beside it has the same object.
            let (kept, _) = before.rsplit_once("<cenc:pssh>").unwrap();
            out.push_str(&format!("{kept}<mspr:pro>{}<", STANDARD.encode(object)));
            rest = after;
        }
        out + rest
    })
}

/// The bytes of a UUID.
pub fn bytes_of(uuid: &str) -> [u8; 16] {
    let digits = uuid.replace('-', "");
    std::array::from_fn(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap())
}

/// The same in GUID order.
pub fn guid_of(bytes: [u8; 16]) -> [u8; 16] {
    let mut guid = bytes;
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    guid
}

/// A UUID of its bytes.
pub fn uuid_of(bytes: [u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

/// Puts other bytes wherever these stand.
pub fn replace_bytes(body: &mut [u8], from: [u8; 16], to: [u8; 16]) {
    let places: Vec<usize> = (0..body.len().saturating_sub(15))
        .filter(|&at| body[at..at + 16] == from)
        .collect();
    for at in places {
        body[at..at + 16].copy_from_slice(&to);
    }
}
