use std::collections::{HashMap, HashSet};

use keystore_types::{ConstantIv, ContentKey, KeyId};
use ring::rand::SecureRandom;

use super::{Headers, Order, SpekeVersion};
use crate::document::{Document, Hdcp, HlsSignaling, Key, Secret, System};
use crate::error::{Error, ErrorKind, Faults};
use crate::identity::{Playlist, SystemId};
use crate::xml::{self, Reading};

/// What a key server gave for an [`Order`], and nothing that was not asked for.
#[derive(Debug)]
pub struct Supply {
    /// The keys, in the order of the order.
    pub keys: Vec<SuppliedKey>,
    /// The signalling: each system for each key.
    pub systems: Vec<System>,
}

/// A key from a key server.
#[derive(Debug)]
pub struct SuppliedKey {
    /// Its id.
    pub key_id: KeyId,
    /// The key.
    pub key: ContentKey,
    /// The IV to use with it, if the server or the order has one.
    pub explicit_iv: Option<ConstantIv>,
    /// The output protection that its licences ask for.
    pub hdcp: Option<Hdcp>,
}

impl Order<'_> {
    /// Reads the answer to [`Order::request`] and holds it against the order. `body` holds keys and is the caller's
    /// to wipe; `random` blinds the recipient's private key.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`] for what is no document; [`ErrorKind::Mismatch`] with
    /// everything that is not as ordered; [`ErrorKind::Denied`] for clear keys where encrypted ones were ordered;
    /// [`ErrorKind::Unopened`].
    pub fn accept(
        &self,
        headers: &Headers<'_>,
        body: &[u8],
        reading: &Reading,
        random: &dyn SecureRandom,
    ) -> Result<Supply, Error> {
        headers.check_content_type()?;
        let mut document = Document::read(body, reading)?;
        let mut faults = Faults::default();
        self.check_version(headers, &document, &mut faults);
        self.check_keys(&document, &mut faults);
        self.check_systems(&document, &mut faults);
        faults.check(ErrorKind::Mismatch)?;

        if let Some(recipient) = self.recipient {
            let clear = |key: &&Key| matches!(key.secret, Secret::Clear(_));
            if let Some(key) = document.keys.iter().find(clear) {
                let reason = format!(
                    "key {} came in the clear, and was ordered encrypted",
                    key.key_id
                );
                return Err(Error::new(ErrorKind::Denied, reason));
            }
            document.decrypt(recipient, random)?;
        }
        self.supply(document)
    }

    fn check_version(&self, headers: &Headers<'_>, document: &Document, faults: &mut Faults) {
        // Key servers may leave the header out, but not state another version.
        let stated = headers.speke_version.map(str::trim_ascii);
        if stated.is_some() && stated != self.version.header() {
            faults.note("the answer is of another SPEKE version");
        }
        if document.version != self.version.cpix() {
            faults.note("the answer is of another CPIX version");
        }
        let (name, content_id, required) = match self.version {
            SpekeVersion::V1_0 => ("id", &document.id, false),
            SpekeVersion::V2_0 | SpekeVersion::V2_1 => ("contentId", &document.content_id, true),
        };
        let same = (content_id.as_ref()).map_or(!required, |id| *id == self.content_id);
        if !same {
            faults.note(format!(
                "the answer is for another content: see CPIX@{name}"
            ));
        }
    }

    fn check_keys(&self, document: &Document, faults: &mut Faults) {
        let mut seen = HashMap::new();
        for key in &document.keys {
            if seen.insert(key.key_id, key).is_some() {
                faults.note(format!("key {} came twice", key.key_id));
            }
        }
        for ordered in &self.keys {
            let key_id = ordered.key_id;
            let Some(key) = seen.remove(&key_id) else {
                faults.note(format!("key {key_id} was ordered and did not come"));
                continue;
            };
            match (&key.secret, self.recipient) {
                (Secret::Absent, _) => {
                    faults.note(format!("key {key_id} came without its value"));
                }
                (Secret::Encrypted(_), None) => {
                    faults.note(format!("key {key_id} came encrypted to nobody here"));
                }
                (Secret::Encrypted(_) | Secret::Clear(_), _) => {}
            }
            if key.scheme.is_some_and(|scheme| scheme != ordered.scheme) {
                faults.note(format!("key {key_id} came for another encryption scheme"));
            }
            let fragment = key
                .hdcp
                .as_ref()
                .and_then(|it| it.output_protection.as_deref());
            if fragment.is_some_and(|fragment| !is_fragment(fragment)) {
                faults.note(format!(
                    "key {key_id}: HDCPOutputProtectionData is no well-formed XML"
                ));
            }
            if let (Some(came), Some(asked)) = (key.explicit_iv, ordered.explicit_iv)
                && came != asked
            {
                faults.note(format!("key {key_id} came with another explicitIV"));
            }
        }
        for key_id in seen.into_keys() {
            faults.note(format!("key {key_id} came and was not ordered"));
        }
    }

    fn check_systems(&self, document: &Document, faults: &mut Faults) {
        let mut ordered: HashMap<(SystemId, KeyId), System> = HashMap::new();
        for system_id in &self.systems {
            for key in &self.keys {
                let asked = self.asked(*system_id, key);
                ordered.insert((*system_id, key.key_id), asked);
            }
        }
        let mut seen = HashSet::new();
        for system in &document.systems {
            let at = (system.system_id, system.key_id);
            let what = format!("system {} of key {}", system.system_id, system.key_id);
            if !seen.insert(at) {
                faults.note(format!("{what} came twice"));
            } else if let Some(asked) = ordered.get(&at) {
                check_system(asked, system, &what, faults);
            } else {
                faults.note(format!("{what} came and was not ordered"));
            }
        }
        for (system_id, key_id) in ordered.into_keys() {
            if !seen.contains(&(system_id, key_id)) {
                faults.note(format!(
                    "system {system_id} of key {key_id} was ordered and did not come"
                ));
            }
        }
    }

    fn supply(&self, document: Document) -> Result<Supply, Error> {
        let mut keys: HashMap<KeyId, Key> = (document.keys.into_iter())
            .map(|key| (key.key_id, key))
            .collect();
        let mut supplied = Vec::with_capacity(self.keys.len());
        for ordered in &self.keys {
            let key_id = ordered.key_id;
            let Some(Key {
                secret: Secret::Clear(key),
                explicit_iv,
                hdcp,
                ..
            }) = keys.remove(&key_id)
            else {
                let reason = format!("key {key_id} is not among those encrypted to this recipient");
                return Err(Error::new(ErrorKind::Mismatch, reason));
            };
            supplied.push(SuppliedKey {
                key_id,
                key,
                explicit_iv: explicit_iv.or(ordered.explicit_iv),
                hdcp,
            });
        }
        Ok(Supply {
            keys: supplied,
            systems: document.systems,
        })
    }
}

/// Everything that was asked for is filled, and fit to go into boxes and manifests.
fn check_system(asked: &System, came: &System, what: &str, faults: &mut Faults) {
    let mut fault = |reason: &str| faults.note(format!("{what}: {reason}"));
    match came.pssh.as_deref() {
        None | Some([]) if asked.pssh.is_some() => fault("PSSH is missing"),
        None | Some([]) => {}
        Some(pssh) => {
            if let Err(reason) = check_pssh(pssh, came) {
                fault(reason);
            }
        }
    }
    match came
        .content_protection
        .as_ref()
        .map(|it| it.fragment.as_str())
    {
        None | Some("") if asked.content_protection.is_some() => {
            fault("ContentProtectionData is missing");
        }
        None | Some("") => {}
        Some(fragment) => {
            if !is_fragment(fragment) {
                fault("ContentProtectionData is no well-formed XML");
            }
        }
    }
    let filled: Vec<&HlsSignaling> = came
        .hls
        .iter()
        .filter(|it| !it.lines.trim_ascii().is_empty())
        .collect();
    for it in &asked.hls {
        if !filled.iter().any(|other| other.playlist == it.playlist) {
            fault("HLSSignalingData is missing for a playlist");
        }
    }
    let mut tags = Vec::new();
    for hls in filled {
        match KeyTag::read(hls) {
            Ok(tag) => tags.push(tag),
            Err(reason) => fault(reason),
        }
    }
    if let [one, other] = tags.as_slice()
        && one != other
    {
        fault("METHOD, KEYFORMAT and KEYFORMATVERSIONS are not the same for both playlists");
    }
    let legacy = [
        (&asked.legacy.uri_ext_x_key, &came.legacy.uri_ext_x_key),
        (&asked.legacy.key_format, &came.legacy.key_format),
        (
            &asked.legacy.key_format_versions,
            &came.legacy.key_format_versions,
        ),
    ];
    // A key format that is not stated is `identity` in its version 1.
    let [(asked_uri, came_uri), ..] = legacy;
    if asked_uri.is_some() && came_uri.as_ref().is_none_or(String::is_empty) {
        fault("URIExtXKey is missing");
    }
    for (_, text) in legacy {
        if text
            .as_ref()
            .is_some_and(|it| it.contains(['"', '\n', '\r']))
        {
            fault("a text for EXT-X-KEY does not fit between quotes");
        }
    }
}

/// One `pssh` box, whole, of the system; one that lists keys lists this one (ISO/IEC 23001-7 8.1).
fn check_pssh(pssh: &[u8], came: &System) -> Result<(), &'static str> {
    let header = || {
        let (size, rest) = pssh.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_first_chunk::<4>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (system, rest) = rest.split_first_chunk::<16>()?;
        let whole = usize::try_from(u32::from_be_bytes(*size)).ok()? == pssh.len();
        (whole && name == b"pssh").then_some((version[0], system, rest))
    };
    let Some((version, system, rest)) = header() else {
        return Err("PSSH is not one whole box");
    };
    if system != came.system_id.as_bytes() {
        return Err("PSSH is of another system");
    }
    let data = match version {
        0 => rest,
        1 => {
            let listed = || {
                let (count, rest) = rest.split_first_chunk::<4>()?;
                let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
                rest.split_at_checked(count.checked_mul(16)?)
            };
            let Some((keys, data)) = listed() else {
                return Err("PSSH is not one whole box");
            };
            if !keys.chunks(16).any(|key| key == came.key_id.as_bytes()) {
                return Err("PSSH lists other keys");
            }
            data
        }
        _ => return Err("PSSH has a version beyond 1"),
    };
    let whole = data.split_first_chunk::<4>().is_some_and(|(size, data)| {
        usize::try_from(u32::from_be_bytes(*size)).is_ok_and(|size| size == data.len())
    });
    if whole {
        Ok(())
    } else {
        Err("PSSH is not one whole box")
    }
}

/// Whether the text can stand between two tags of an MPD.
fn is_fragment(text: &str) -> bool {
    let wrapped = format!("<fragment>{text}</fragment>");
    xml::read(wrapped.as_bytes(), &Reading::default())
        .is_ok_and(|root| root.local == "fragment" && !root.children.is_empty())
}

/// What must agree between the key tags of two playlists.
#[derive(PartialEq, Eq)]
struct KeyTag {
    method: String,
    key_format: String,
    key_format_versions: String,
}

impl KeyTag {
    /// The first key tag of a playlist's lines, each of which is a tag or a comment.
    fn read(hls: &HlsSignaling) -> Result<Self, &'static str> {
        let prefix = match hls.playlist {
            Playlist::Media => "#EXT-X-KEY:",
            Playlist::Multivariant => "#EXT-X-SESSION-KEY:",
        };
        let lines = || {
            hls.lines
                .lines()
                .filter(|line| !line.trim_ascii().is_empty())
        };
        if lines().any(|line| !line.starts_with('#') || line.contains(char::is_control)) {
            return Err("HLSSignalingData has a line that is no tag");
        }
        let Some(list) = lines().find_map(|line| line.strip_prefix(prefix)) else {
            return Err("HLSSignalingData has no key tag of its playlist");
        };
        let value = |name| attribute(list, name).map(str::to_owned);
        let method = value("METHOD").filter(|method| method != "NONE");
        Ok(Self {
            method: method.ok_or("HLSSignalingData has a key tag without METHOD")?,
            key_format: value("KEYFORMAT").unwrap_or_else(|| "identity".to_owned()),
            key_format_versions: value("KEYFORMATVERSIONS").unwrap_or_else(|| "1".to_owned()),
        })
    }
}

/// The value of an attribute in a list (RFC 8216 4.2), without its quotes.
fn attribute<'a>(list: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = list;
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, tail) = match value.strip_prefix('"') {
            Some(quoted) => {
                let (value, tail) = quoted.split_once('"')?;
                (value, tail.strip_prefix(',').unwrap_or(tail))
            }
            None => value.split_once(',').unwrap_or((value, "")),
        };
        if name.trim_ascii() == wanted {
            return Some(value.trim_ascii());
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_list() {
        let list = "METHOD=SAMPLE-AES,URI=\"skd://a,METHOD=b\",KEYFORMAT=\"x\"";
        assert_eq!(attribute(list, "METHOD"), Some("SAMPLE-AES"));
        assert_eq!(attribute(list, "URI"), Some("skd://a,METHOD=b"));
        assert_eq!(attribute(list, "KEYFORMAT"), Some("x"));
        for (list, name) in [
            (list, "IV"),
            ("", "A"),
            ("A=\"b", "A"),
            ("A", "A"),
            (",,,", "A"),
        ] {
            assert_eq!(attribute(list, name), None, "{list}");
        }
    }

    #[test]
    fn boxes() {
        let key_id = KeyId::new([7; 16]);
        let system = System::new(SystemId::COMMON, key_id);
        let make = |version: u8, system: SystemId, tail: &[u8]| {
            let mut pssh = (28 + u32::try_from(tail.len()).unwrap())
                .to_be_bytes()
                .to_vec();
            pssh.extend(b"pssh");
            pssh.extend([version, 0, 0, 0]);
            pssh.extend(system.as_bytes());
            pssh.extend(tail);
            pssh
        };
        let listing = |ids: u32, of: &[u8]| [&ids.to_be_bytes(), of, &[0; 4]].concat();
        let check = |pssh: &[u8]| check_pssh(pssh, &system);
        let good = make(1, SystemId::COMMON, &listing(1, &[7; 16]));
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&make(0, SystemId::COMMON, &[0, 0, 0, 1, 9])), Ok(()));
        for len in 0..good.len() {
            assert!(check(&good[..len]).is_err(), "{len} bytes");
        }
        for (bad, reason) in [
            (
                make(0, SystemId::WIDEVINE, &[0; 4]),
                "PSSH is of another system",
            ),
            (
                make(2, SystemId::COMMON, &[0; 4]),
                "PSSH has a version beyond 1",
            ),
            (
                make(1, SystemId::COMMON, &listing(1, &[8; 16])),
                "PSSH lists other keys",
            ),
            (
                make(1, SystemId::COMMON, &listing(u32::MAX, &[7; 16])),
                "PSSH is not one whole box",
            ),
            (
                make(0, SystemId::COMMON, &[0, 0, 0, 2, 9]),
                "PSSH is not one whole box",
            ),
            (
                [good.clone(), vec![0]].concat(),
                "PSSH is not one whole box",
            ),
        ] {
            assert_eq!(check(&bad), Err(reason));
        }
    }

    #[test]
    fn fragments() {
        for good in ["<a/>", "<a xmlns=\"b\">c</a>", "<x:a xmlns:x=\"b\"/><b/>"] {
            assert!(is_fragment(good), "{good}");
        }
        for bad in [
            "",
            "text",
            "<a>",
            "<x:a/>",
            "</fragment><fragment>",
            "<?pi?>",
            "<!DOCTYPE a>",
            "<a/>text",
        ] {
            assert!(!is_fragment(bad), "{bad}");
        }
    }
}
