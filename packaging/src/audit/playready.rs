//! Reading PlayReady Objects (PlayReady Header Specification): what packagers write, right or wrong.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reader::xml::Element;

/// The longest object (PlayReady Header Specification): 15 KiB.
const MAX_OBJECT: usize = 15 << 10;

/// What a `WRMHEADER` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Such as `4.0.0.0`.
    pub(crate) version: String,
    pub(crate) keys: Vec<Key>,
    pub(crate) license_url: Option<String>,
}

/// A key as a header names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The 16 bytes as they stand, which should be in GUID order.
    pub(crate) id: [u8; 16],
    /// `AESCTR`, `AESCBC`, or what else is written.
    pub(crate) algorithm: Option<String>,
    pub(crate) checksum: Option<Vec<u8>>,
}

impl Header {
    /// Reads an object; one that holds no header is `None`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn read(object: &[u8]) -> Result<Option<Self>, String> {
        if object.len() > MAX_OBJECT {
            return Err(format!("the object is longer than {MAX_OBJECT} bytes"));
        }
        let cut = || "the object is cut off".to_owned();
        let (len, rest) = object.split_first_chunk().ok_or_else(cut)?;
        let len = u32::from_le_bytes(*len);
        if usize::try_from(len).ok() != Some(object.len()) {
            return Err(format!(
                "the object claims {len} bytes and has {}",
                object.len()
            ));
        }
        let (count, mut rest) = rest.split_first_chunk().ok_or_else(cut)?;
        for _ in 0..u16::from_le_bytes(*count) {
            let (kind, after) = rest.split_first_chunk().ok_or_else(cut)?;
            let (len, after) = after.split_first_chunk().ok_or_else(cut)?;
            let len = usize::from(u16::from_le_bytes(*len));
            let (record, after) = after.split_at_checked(len).ok_or_else(cut)?;
            if u16::from_le_bytes(*kind) == 1 {
                return Self::parse(record).map(Some);
            }
            rest = after;
        }
        Ok(None)
    }

    fn parse(record: &[u8]) -> Result<Self, String> {
        let (units, odd) = record.as_chunks::<2>();
        if !odd.is_empty() {
            return Err("the header is no UTF-16".to_owned());
        }
        let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        let text = text.map_err(|_| "the header is no UTF-16".to_owned())?;
        let root = Element::parse(&text).map_err(|error| format!("the header: {error}"))?;
        if root.name != "WRMHEADER" {
            return Err(format!("the header is a {}, no WRMHEADER", root.name));
        }
        let version = root.attribute("version").unwrap_or_default().to_owned();
        let data = root.child("DATA").ok_or("the header has no DATA")?;
        let info = data.child("PROTECTINFO");
        let mut keys = Vec::new();
        // 4.0: elements of DATA, the algorithm in PROTECTINFO.
        if let Some(kid) = data.child("KID") {
            keys.push(Key {
                id: key_id(&kid.text)?,
                algorithm: info.and_then(|info| info.child("ALGID")).map(text_of),
                checksum: (data.child("CHECKSUM"))
                    .map(|checksum| decoded(&checksum.text, "CHECKSUM"))
                    .transpose()?,
            });
        }
        // 4.1: one KID of attributes in PROTECTINFO; 4.2 and 4.3: several in KIDS.
        let listed = info.into_iter().flat_map(|info| {
            let in_list = (info.children("KIDS")).flat_map(|list| list.children("KID"));
            info.children("KID").chain(in_list)
        });
        for kid in listed {
            let checksum = kid.attribute("CHECKSUM");
            keys.push(Key {
                id: key_id(kid.attribute("VALUE").unwrap_or_default())?,
                algorithm: kid.attribute("ALGID").map(str::to_owned),
                checksum: checksum
                    .map(|checksum| decoded(checksum, "CHECKSUM"))
                    .transpose()?,
            });
        }
        Ok(Self {
            version,
            keys,
            license_url: data.child("LA_URL").map(text_of),
        })
    }

    /// Whether this version knows AES-CBC.
    pub(crate) fn knows_cbc(&self) -> bool {
        let mut numbers = self.version.split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next(), numbers.next());
        matches!((major, minor), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (4, 3))
    }
}

fn text_of(element: &Element) -> String {
    element.text.trim().to_owned()
}

fn decoded(text: &str, what: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text.trim())
        .map_err(|_| format!("{what} is no base64"))
}

fn key_id(text: &str) -> Result<[u8; 16], String> {
    decoded(text, "KID")?
        .try_into()
        .map_err(|_| "KID has not 16 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(xml: &str) -> Vec<u8> {
        let header: Vec<u8> = xml.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let len = u16::try_from(header.len()).unwrap();
        [
            &(u32::from(len) + 10).to_le_bytes()[..],
            &[1, 0, 1, 0],
            &len.to_le_bytes(),
            &header,
        ]
        .concat()
    }

    #[test]
    fn reads_the_places_of_key_ids_in_every_version() {
        let four = "<WRMHEADER version=\"4.0.0.0\"><DATA><PROTECTINFO><KEYLEN>16</KEYLEN><ALGID>AESCTR</ALGID>\
            </PROTECTINFO><KID>AwIBAQgFFQ0iN1mQ6QAAAA==</KID><CHECKSUM>VV4Km5/yjig=</CHECKSUM>\
            <LA_URL>https://l.example/?a=1&amp;b=2</LA_URL></DATA></WRMHEADER>";
        let header = Header::read(&object(four)).unwrap().unwrap();
        assert_eq!(
            header.license_url.as_deref(),
            Some("https://l.example/?a=1&b=2")
        );
        assert_eq!(header.keys[0].id[..8], [3, 2, 1, 1, 8, 5, 0x15, 0xd]);
        assert_eq!(header.keys[0].algorithm.as_deref(), Some("AESCTR"));
        assert_eq!(header.keys[0].checksum.as_ref().map(Vec::len), Some(8));
        assert!(!header.knows_cbc());
        let three = "<WRMHEADER version=\"4.3.0.0\"><DATA><PROTECTINFO><KIDS>\
            <KID ALGID=\"AESCBC\" VALUE=\"AwIBAQgFFQ0iN1mQ6QAAAA==\"></KID>\
            <KID VALUE=\"PV1LM/VEVk+kEOB8qqcWDg==\"></KID></KIDS></PROTECTINFO></DATA></WRMHEADER>";
        let header = Header::read(&object(three)).unwrap().unwrap();
        assert_eq!(header.keys.len(), 2);
        assert!(header.knows_cbc());
    }

    #[test]
    fn refuses_what_is_no_object() {
        let sound = object("<WRMHEADER version=\"4.0.0.0\"><DATA></DATA></WRMHEADER>");
        assert!(Header::read(&sound).unwrap().unwrap().keys.is_empty());
        let (other, open) = (object("<A/>"), object("<WRM"));
        for bytes in [&sound[..20], &[][..], &[0; 6][..], &other[..], &open[..]] {
            assert!(Header::read(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(Header::read(&[6, 0, 0, 0, 0, 0]), Ok(None), "no record");
    }
}
