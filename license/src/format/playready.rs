//! The key ids and the token of a PlayReady challenge. The challenge is a SOAP message that is passed on as it came; the content header
//! in it (`WRMHEADER`, PlayReady Header Specification) stands in the open and names the keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_types::KeyId;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// The most keys of one header: as many as the keystore exports at once.
pub const MAX_KEYS: usize = keystore_client::MAX_KEYS;

/// How deep elements may lie. A challenge has less than twenty levels.
const MAX_DEPTH: usize = 64;

/// How many elements may stand in a challenge.
const MAX_ELEMENTS: usize = 4096;

/// Why a body is no challenge whose keys are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeFault {
    /// Not XML in UTF-8, or ill-formed.
    #[error("expected a SOAP message, which is XML in UTF-8")]
    Xml,
    /// A document type declaration.
    #[error("a document type declaration is not accepted")]
    DocType,
    /// Too deep, or too many elements.
    #[error("the message has too many elements")]
    TooLarge,
    /// No header, or another than one.
    #[error("expected one WRMHEADER, which names the keys")]
    Header,
    /// A key id is not 16 bytes in base64.
    #[error("a key id of the WRMHEADER is 16 bytes in base64")]
    KeyId,
    /// Too many key ids.
    #[error("the WRMHEADER names more than {MAX_KEYS} keys")]
    TooManyKeys,
}

/// The key ids of the one header in a challenge: at least one, each once, in order.
///
/// Each version of the header has them elsewhere, and all are found: `KID` with a text (4.0) or with the attribute `VALUE`
/// (4.1 and later).
///
/// # Errors
/// [`ChallengeFault`].
pub fn key_ids(body: &[u8]) -> Result<Vec<KeyId>, ChallengeFault> {
    let scan = Scan::over(body)?;
    match (scan.headers, scan.key_ids.is_empty()) {
        (1, false) => Ok(scan.key_ids),
        _ => Err(ChallengeFault::Header),
    }
}

/// Each custom data of a challenge that is a token by its looks: three parts with dots between them. Whatever else
/// applications send there is the business of the licence service. There should be one; two readers could take one each of
/// more. None where the body is no challenge, which [`key_ids`] says why.
pub fn tokens(body: &[u8]) -> Vec<String> {
    let custom_data = Scan::over(body).map_or_else(|_| vec![], |scan| scan.custom_data);
    (custom_data.into_iter())
        .map(|data| data.trim_ascii().to_owned())
        .filter(|data| data.split('.').count() == 3 && !data.contains(char::is_whitespace))
        .collect()
}

/// What a PlayReady server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A message that is no fault.
    Message,
    /// A SOAP fault (SOAP 1.1, 4.4).
    Fault,
}

/// Whether an answer is a message or a fault; none where it is no SOAP.
pub fn answer(body: &[u8]) -> Option<Answer> {
    let scan = Scan::over(body).ok()?;
    match (scan.enveloped, scan.fault) {
        (false, _) => None,
        (true, false) => Some(Answer::Message),
        (true, true) => Some(Answer::Fault),
    }
}

#[derive(Default)]
struct Scan {
    depth: usize,
    elements: usize,
    headers: usize,
    /// The depth of the header, while in it.
    header: Option<usize>,
    /// The depth of a `KID` without `VALUE`, while in it, and its text so far.
    kid: Option<(usize, String)>,
    key_ids: Vec<KeyId>,
    /// The depth of the custom data, while in it.
    custom: Option<usize>,
    /// What stands in each `CustomData`.
    custom_data: Vec<String>,
    /// Whether the outermost element is `Envelope`.
    enveloped: bool,
    /// Whether `Fault` stands in its body.
    fault: bool,
}

impl Scan {
    fn over(body: &[u8]) -> Result<Self, ChallengeFault> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = str::from_utf8(body).map_err(|_| ChallengeFault::Xml)?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut scan = Self::default();
        loop {
            match reader.read_event().map_err(|_| ChallengeFault::Xml)? {
                Event::Start(tag) => scan.enter(&tag)?,
                Event::Empty(tag) => {
                    scan.enter(&tag)?;
                    scan.leave()?;
                }
                Event::End(_) => scan.leave()?,
                Event::Text(text) => scan.text(&text),
                Event::CData(text) => scan.text(&text),
                // Nothing in a key id is ever written so.
                Event::GeneralRef(_) => scan.text("&"),
                Event::DocType(_) => return Err(ChallengeFault::DocType),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Eof if scan.depth == 0 => return Ok(scan),
                Event::Eof => return Err(ChallengeFault::Xml),
            }
        }
    }

    fn enter(&mut self, tag: &BytesStart<'_>) -> Result<(), ChallengeFault> {
        self.depth += 1;
        self.elements += 1;
        if self.depth > MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(ChallengeFault::TooLarge);
        }
        let name = tag.local_name();
        self.enveloped |= self.depth == 1 && name.as_ref() == "Envelope";
        self.fault |= self.depth == 3 && name.as_ref() == "Fault";
        if name.as_ref() == "CustomData" && self.header.is_none() && self.custom.is_none() {
            self.custom = Some(self.depth);
            self.custom_data.push(String::new());
        }
        if name.as_ref() == "WRMHEADER" {
            self.headers += 1;
            self.header.get_or_insert(self.depth);
        } else if name.as_ref() == "KID" && self.header.is_some() {
            let mut value = None;
            for attribute in tag.attributes() {
                let attribute = attribute.map_err(|_| ChallengeFault::Xml)?;
                if attribute.key.local_name().as_ref() == "VALUE" {
                    value = Some(attribute.value);
                }
            }
            match value {
                Some(value) => self.add(&value)?,
                None => self.kid = Some((self.depth, String::new())),
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ChallengeFault> {
        if let Some((_, text)) = self.kid.take_if(|(depth, _)| *depth == self.depth) {
            self.add(text.trim_ascii())?;
        }
        self.header.take_if(|depth| *depth == self.depth);
        self.custom.take_if(|depth| *depth == self.depth);
        self.depth = self.depth.checked_sub(1).ok_or(ChallengeFault::Xml)?;
        Ok(())
    }

    fn text(&mut self, more: &str) {
        if let Some((_, text)) = &mut self.kid {
            text.push_str(more);
        }
        if let (Some(_), Some(text)) = (self.custom, self.custom_data.last_mut()) {
            text.push_str(more);
        }
    }

    fn add(&mut self, text: &str) -> Result<(), ChallengeFault> {
        let bytes = STANDARD.decode(text).ok().and_then(|it| it.try_into().ok());
        // In GUID order; turned round twice, the bytes are as they were.
        let guid = KeyId::new(bytes.ok_or(ChallengeFault::KeyId)?);
        let key_id = KeyId::new(guid.to_guid());
        if !self.key_ids.contains(&key_id) {
            if self.key_ids.len() == MAX_KEYS {
                return Err(ChallengeFault::TooManyKeys);
            }
            self.key_ids.push(key_id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "http://schemas.microsoft.com/DRM/2007/03/PlayReadyHeader";

    fn challenge(version: &str, data: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
             <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
             <AcquireLicense xmlns=\"http://schemas.microsoft.com/DRM/2007/03/protocols\"><challenge>\
             <Challenge xmlns=\"http://schemas.microsoft.com/DRM/2007/03/protocols/messages\">\
             <LA Id=\"SignedData\"><Version>1</Version><ContentHeader>\
             <WRMHEADER xmlns=\"{HEADER}\" version=\"{version}\"><DATA>{data}</DATA></WRMHEADER>\
             </ContentHeader><KID>not of the header</KID></LA></Challenge></challenge></AcquireLicense></soap:Body>\
             </soap:Envelope>"
        )
    }

    #[test]
    fn the_headers_of_every_version_name_their_keys() {
        let first: KeyId = "a2c786d0-f9ef-4cb3-b333-cd323a4284a5".parse().unwrap();
        let second: KeyId = "db06a8fe-ec16-4de2-9228-2c71e9b856ab".parse().unwrap();
        for (version, data, expected) in [
            (
                "4.0.0.0",
                "<PROTECTINFO><KEYLEN>16</KEYLEN><ALGID>AESCTR</ALGID></PROTECTINFO>\
                 <KID> 0IbHou/5s0yzM80yOkKEpQ==\n</KID><CHECKSUM>xNvWVxoWk04=</CHECKSUM>",
                vec![first],
            ),
            (
                "4.1.0.0",
                "<PROTECTINFO><KID ALGID=\"AESCTR\" VALUE=\"0IbHou/5s0yzM80yOkKEpQ==\"></KID></PROTECTINFO>",
                vec![first],
            ),
            (
                "4.3.0.0",
                "<PROTECTINFO><KIDS><KID ALGID=\"AESCBC\" VALUE=\"0IbHou/5s0yzM80yOkKEpQ==\"></KID>\
                 <KID ALGID=\"AESCBC\" VALUE=\"/qgG2xbs4k2SKCxx6bhWqw==\"/>\
                 <KID ALGID=\"AESCBC\" VALUE=\"/qgG2xbs4k2SKCxx6bhWqw==\"/></KIDS></PROTECTINFO>",
                vec![first, second],
            ),
        ] {
            let read = key_ids(challenge(version, data).as_bytes());
            assert_eq!(read, Ok(expected), "{version}");
        }
    }

    #[test]
    fn custom_data_is_a_token_where_it_looks_like_one() {
        let good = challenge("4.0.0.0", "<KID>0IbHou/5s0yzM80yOkKEpQ==</KID>");
        let with = |data: &str| {
            let data = format!("<Version>1</Version>{data}");
            good.replace("<Version>1</Version>", &data)
        };
        let custom = |text: &str| with(&format!("<CustomData>{text}</CustomData>"));
        for (body, expected) in [
            (good.clone(), &[][..]),
            (custom("e30.e30.c2ln"), &["e30.e30.c2ln"]),
            (custom("\n e30.e30.c2ln \n"), &["e30.e30.c2ln"]),
            (custom("<![CDATA[e30.e30.c2ln]]>"), &["e30.e30.c2ln"]),
            (custom("viewer 7 of www.example.com"), &[]),
            (custom("1.2"), &[]),
            (custom(""), &[]),
            (
                custom("e30.e30.c2ln</CustomData><CustomData>e30.e30.b3Ro"),
                &["e30.e30.c2ln", "e30.e30.b3Ro"],
            ),
            (
                good.replacen("<KID>", "<CustomData>a.b.c</CustomData><KID>", 1),
                &[],
            ),
            ("no XML".to_owned(), &[]),
        ] {
            assert_eq!(tokens(body.as_bytes()), expected, "{body}");
            if body.starts_with('<') {
                assert_eq!(key_ids(body.as_bytes()).unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn an_answer_is_a_message_or_a_fault_or_neither() {
        let soap = |inside: &str| {
            format!("<s:Envelope xmlns:s=\"x\"><s:Body>{inside}</s:Body></s:Envelope>")
        };
        for (body, expected) in [
            (soap("<AcquireLicenseResponse/>"), Some(Answer::Message)),
            (soap("<s:Fault><faultcode/></s:Fault>"), Some(Answer::Fault)),
            ("<html/>".to_owned(), None),
            ("<s:Envelope>".to_owned(), None),
            ("garbage".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(answer(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn what_names_no_key_is_told_so() {
        let good = challenge("4.0.0.0", "<KID>0IbHou/5s0yzM80yOkKEpQ==</KID>");
        let two = good.replace("<Version>1</Version>", "<WRMHEADER></WRMHEADER>");
        let entity = good.replace("0IbHou", "&x;");
        let deep = format!("{}{}", "<a>".repeat(65), "</a>".repeat(65));
        let wide = format!("<a>{}</a>", "<a/>".repeat(MAX_ELEMENTS));
        let kids = (0..=MAX_KEYS as u128).map(|n| {
            let value = STANDARD.encode(n.to_be_bytes());
            format!("<KID VALUE=\"{value}\"></KID>")
        });
        let many = challenge("4.2.0.0", &kids.collect::<String>());
        for (body, fault) in [
            (b"".as_slice(), ChallengeFault::Header),
            (b"{}", ChallengeFault::Header),
            (b"\xff\xfe<\0", ChallengeFault::Xml),
            (b"<a>", ChallengeFault::Xml),
            (b"</a>", ChallengeFault::Xml),
            (b"<a></b>", ChallengeFault::Xml),
            (
                b"<!DOCTYPE a [<!ENTITY x \"y\">]><a/>",
                ChallengeFault::DocType,
            ),
            (deep.as_bytes(), ChallengeFault::TooLarge),
            (wide.as_bytes(), ChallengeFault::TooLarge),
            (
                b"<a><KID>0IbHou/5s0yzM80yOkKEpQ==</KID></a>",
                ChallengeFault::Header,
            ),
            (challenge("4.0.0.0", "").as_bytes(), ChallengeFault::Header),
            (two.as_bytes(), ChallengeFault::Header),
            (
                challenge("4.0.0.0", "<KID>AAAA</KID>").as_bytes(),
                ChallengeFault::KeyId,
            ),
            (
                challenge("4.1.0.0", "<KID VALUE=\"\"/>").as_bytes(),
                ChallengeFault::KeyId,
            ),
            (entity.as_bytes(), ChallengeFault::KeyId),
            (many.as_bytes(), ChallengeFault::TooManyKeys),
        ] {
            assert_eq!(
                key_ids(body),
                Err(fault),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }
}
