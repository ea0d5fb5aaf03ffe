//! The envelopes of a server playback context (SPC) and of its content key context (CKC). Both are read no further than
//! the word at their front: all else is between the device and the operator's key security module.
//!
//! Players send an SPC in one of four shapes, and want the CKC in the matching one:
//!
//! | shape | request | response |
//! |---|---|---|
//! | raw | the bytes | the bytes |
//! | base64 | `AAAAAQ...` | `AAAAAQ...` |
//! | form | `spc=AAAAAQ...&assetId=...` | `<ckc>AAAAAQ...</ckc>` |
//! | JSON | `{"spc":"AAAAAQ..."}` | `{"ckc":"AAAAAQ..."}` |
//!
//! The shape is told from the bytes, since players label them as they like: an SPC begins with a version below 2^24, so
//! with a zero byte, which no text does.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use crate::json;

/// Version, reserved word, initialisation vector: what stands at the front of an SPC of every version.
const FRONT: usize = 24;

/// A server playback context as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spc {
    /// The container.
    pub bytes: Vec<u8>,
    /// The version that it claims.
    pub version: u32,
    /// How it came, and how the answer is to go.
    pub shape: Shape,
}

/// How an SPC comes, and a CKC goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The bytes themselves.
    Raw,
    /// base64.
    Base64,
    /// A form, answered by an element.
    Form,
    /// A JSON object.
    Json,
}

/// Why a body holds no SPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpcFault {
    /// Neither of the four shapes.
    #[error("expected an SPC: its bytes, base64, a form with `spc`, or JSON with `spc`")]
    Shape,
    /// base64 that is none.
    #[error("the SPC is no base64")]
    Base64,
    /// Too short for the public words, or without a version.
    #[error("the SPC has no header")]
    Header,
}

impl Spc {
    /// Reads a body, whatever its media type said.
    ///
    /// # Errors
    /// [`SpcFault`].
    pub fn read(body: &[u8]) -> Result<Self, SpcFault> {
        let (bytes, shape) = match body.trim_ascii() {
            _ if body.first() == Some(&0) => (body.to_vec(), Shape::Raw),
            text @ [b'{', ..] => {
                let Ok(Value::Object(members)) = json::parse(text) else {
                    return Err(SpcFault::Shape);
                };
                let spc = members.get("spc").and_then(Value::as_str);
                (decode(spc.ok_or(SpcFault::Shape)?)?, Shape::Json)
            }
            [] => return Err(SpcFault::Shape),
            text => {
                let text = str::from_utf8(text).map_err(|_| SpcFault::Shape)?;
                match field(text)? {
                    Some(spc) => (decode(&spc)?, Shape::Form),
                    None => (decode(text)?, Shape::Base64),
                }
            }
        };
        match *bytes {
            [0, a, b, c, ..] if bytes.len() > FRONT && [a, b, c] != [0; 3] => Ok(Self {
                version: u32::from_be_bytes([0, a, b, c]),
                bytes,
                shape,
            }),
            _ => Err(SpcFault::Header),
        }
    }
}

/// The one field `spc` of a form, its escapes read; none where the text is no form.
fn field(text: &str) -> Result<Option<String>, SpcFault> {
    let mut found = None;
    for pair in text.split('&') {
        match pair.split_once('=') {
            Some(("spc", value)) if found.is_none() => found = Some(value),
            Some(("spc", _)) => return Err(SpcFault::Shape),
            // base64 may end in `=`, and then nothing follows it.
            _ => {}
        }
    }
    let Some(value) = found else {
        return Ok(None);
    };
    let mut plain = String::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        plain.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let code = digit().zip(digit()).map(|(high, low)| high << 4 | low);
                char::from_u32(code.ok_or(SpcFault::Shape)?).ok_or(SpcFault::Shape)?
            }
            // Pages that do not escape send base64's `+` as it is.
            byte => char::from(byte),
        });
    }
    Ok(Some(plain))
}

fn decode(text: &str) -> Result<Vec<u8>, SpcFault> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if text.contains(['-', '_']) {
        URL_SAFE
    } else {
        BASE64
    };
    // Some clients break lines, as MIME does.
    let joined: String = text.split_ascii_whitespace().collect();
    engine.decode(joined).map_err(|_| SpcFault::Base64)
}

impl Shape {
    /// The media type of a CKC in this shape.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Raw => "application/octet-stream",
            Self::Base64 | Self::Form => "text/plain",
            Self::Json => "application/json",
        }
    }

    /// A CKC in this shape.
    pub fn write(self, ckc: &[u8]) -> Vec<u8> {
        let base64 = || STANDARD.encode(ckc);
        match self {
            Self::Raw => ckc.to_vec(),
            Self::Base64 => base64().into_bytes(),
            Self::Form => format!("<ckc>{}</ckc>", base64()).into_bytes(),
            Self::Json => format!(r#"{{"ckc":"{}"}}"#, base64()).into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2, and what nobody here can read. Its base64 has `+`, `/` and padding.
    fn spc() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 2];
        bytes.extend([0xfb, 0xef, 0xff].repeat(11));
        bytes.push(0xff);
        bytes
    }

    #[test]
    fn every_shape_is_read_and_answered_in_kind() {
        let base64 = STANDARD.encode(spc());
        let escaped = base64
            .replace('+', "%2B")
            .replace('/', "%2f")
            .replace('=', "%3D");
        let url_safe = base64.replace('+', "-").replace('/', "_").replace('=', "");
        let (head, tail) = base64.split_at(20);
        for (body, shape) in [
            (spc(), Shape::Raw),
            (base64.clone().into(), Shape::Base64),
            (url_safe.clone().into(), Shape::Base64),
            (format!("{head}\r\n{tail}\r\n").into(), Shape::Base64),
            (format!("spc={escaped}&assetId=film").into(), Shape::Form),
            (format!("assetId=film&spc={base64}").into(), Shape::Form),
            (
                format!(r#" {{"spc":"{base64}","assetId":1}}"#).into(),
                Shape::Json,
            ),
        ] {
            let read = Spc::read(&body).unwrap();
            assert_eq!((read.version, read.shape), (2, shape));
            assert_eq!(read.bytes, spc());
        }
        for (shape, ckc) in [
            (Shape::Raw, "\0\u{1}"),
            (Shape::Base64, "AAE="),
            (Shape::Form, "<ckc>AAE=</ckc>"),
            (Shape::Json, r#"{"ckc":"AAE="}"#),
        ] {
            assert_eq!(shape.write(&[0, 1]), ckc.as_bytes());
        }
    }

    #[test]
    fn what_holds_no_spc_is_told_so() {
        let twice = format!("spc={0}&spc={0}", STANDARD.encode(spc()));
        let bare = STANDARD.encode([0, 0, 0, 0].repeat(10));
        for (body, fault) in [
            (&b""[..], SpcFault::Shape),
            (b" ", SpcFault::Shape),
            (b"\xff\xff", SpcFault::Shape),
            (b"{}", SpcFault::Shape),
            (br#"{"spc":1}"#, SpcFault::Shape),
            (br#"{"spc":"AAAA","spc":"AAAA"}"#, SpcFault::Shape),
            (twice.as_bytes(), SpcFault::Shape),
            (b"spc=%4", SpcFault::Shape),
            (b"spc=%zz", SpcFault::Shape),
            (b"<html>no</html>", SpcFault::Base64),
            (&[0; 24], SpcFault::Header),
            (bare.as_bytes(), SpcFault::Header),
            (&[0, 0, 0, 1], SpcFault::Header),
            (b"AAAAAQ==", SpcFault::Header),
        ] {
            assert_eq!(Spc::read(body), Err(fault), "{body:?}");
        }
    }
}
