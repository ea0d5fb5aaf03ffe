//! The checks: what manifests, boxes and licences say of one thing must be one thing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use keystore_types::{ContentKey, KeyId};
use reader::decrypt::checksum as checksum_of;
use reader::mp4::{Protection, Scheme};
use url::Url;

use super::finding::{Fault, Finding, Place, shown};
use super::manifest::{Signal, Track};
use super::sample::{self, Verdict};
use super::system::System;
use super::widevine;
use super::{Looked, Parts};

/// Checks everything, and tells how many tracks show that the licence's key is theirs.
pub(super) fn all(
    looked: &[Looked],
    keys: &BTreeMap<KeyId, ContentKey>,
    findings: &mut Vec<Finding>,
) -> usize {
    let mut proved = 0;
    for title in looked {
        for (track, parts) in title.tracks() {
            let mut one = One {
                title,
                track,
                parts,
                findings,
            };
            one.protection();
            for signal in &track.signals {
                one.signal(signal);
            }
            one.checksums(keys);
            proved += usize::from(one.key(keys));
        }
        session_keys(title, findings);
        license_urls(std::slice::from_ref(title), findings);
    }
    if looked.len() > 1 {
        license_urls(looked, findings);
    }
    shared_segments(looked, findings);
    schemes(looked, findings);
    proved
}

const fn four_cc(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Cenc => "cenc",
        Scheme::Cbcs => "cbcs",
    }
}

/// One track and the words about it.
struct One<'a> {
    title: &'a Looked,
    track: &'a Track,
    parts: &'a Parts,
    findings: &'a mut Vec<Finding>,
}

impl One<'_> {
    fn find(&mut self, fault: Fault, at: &str, what: impl Into<String>) {
        let place = self.title.place(self.track, at);
        self.findings.push(Finding::new(fault, place, what));
    }

    /// What the boxes say by themselves, and whether they and the manifest agree that there is protection.
    fn protection(&mut self) {
        let Some((_, header)) = &self.parts.init else {
            return;
        };
        match &header.protection {
            None if !self.track.signals.is_empty() => {
                let what = "the manifest signals protection, and the sample entry is clear";
                self.find(
                    Fault::ProtectionMismatch,
                    "moov/trak/mdia/minf/stbl/stsd",
                    what,
                );
            }
            Some(_) if self.track.signals.is_empty() => {
                let what = "the sample entry is encrypted, and the manifest signals nothing";
                self.find(
                    Fault::ProtectionMismatch,
                    "moov/trak/mdia/minf/stbl/stsd",
                    what,
                );
            }
            Some(protection) if protection.kid == [0; 16] => {
                let place = self.title.place(self.track, "sinf/schi/tenc/default_KID");
                let place = place.at_offset(protection.kid_offset);
                let what = "the key id is all zero";
                self.findings
                    .push(Finding::new(Fault::KeyIdMissing, place, what));
            }
            Some(_) | None => {}
        }
        let boxes = header
            .pssh
            .iter()
            .map(|pssh| (pssh, System::of_id(pssh.system)));
        for (pssh, system) in boxes {
            let ids = pssh.key_ids.clone();
            let at = format!("moov/pssh of {system}");
            self.pssh_of_init(&ids, &pssh.data, system, &at, pssh.offset);
        }
    }

    fn pssh_of_init(
        &mut self,
        ids: &[[u8; 16]],
        data: &[u8],
        system: System,
        at: &str,
        offset: usize,
    ) {
        let from = self.findings.len();
        self.key_ids(ids, false, at);
        match system {
            System::Widevine => self.widevine(data, at),
            System::PlayReady => match super::playready::Header::read(data) {
                Ok(Some(header)) => self.playready(&header, at),
                Ok(None) => {}
                Err(what) => self.find(Fault::Malformed, at, what),
            },
            System::Common
            | System::ClearKey
            | System::Identity
            | System::FairPlay
            | System::Other => {}
        }
        for finding in self.findings.iter_mut().skip(from) {
            finding.place.offset = Some(offset);
        }
    }

    /// What one descriptor or key tag says.
    fn signal(&mut self, signal: &Signal) {
        let at = signal.at.as_str();
        let scheme = self.parts.protection().map(|protection| protection.scheme);
        let claimed = signal.scheme.as_deref();
        let ctr = claimed == Some("cenc") || scheme == Some(Scheme::Cenc);
        if signal.system == System::FairPlay && ctr {
            let what = match claimed {
                Some("cenc") => "FairPlay is signalled with METHOD=SAMPLE-AES-CTR",
                _ => "FairPlay is signalled, and schm says cenc",
            };
            self.find(Fault::FairplayWithCenc, at, what);
        } else if let (Some(claimed), Some(scheme)) = (claimed, scheme)
            && claimed != four_cc(scheme)
            && claimed != "AES-128"
        {
            let what = format!("it says {claimed}, and schm says {}", four_cc(scheme));
            self.find(Fault::SchemeMismatch, at, what);
        }
        if let Some(key_id) = signal.key_id {
            self.key_ids(&[key_id], true, at);
        }
        for pssh in &signal.pssh {
            self.key_ids(&pssh.key_ids, false, at);
            if signal.system == System::Widevine {
                self.widevine(&pssh.data, at);
            }
            self.pssh_of_both(pssh, at);
        }
        for header in &signal.playready {
            self.playready(header, at);
        }
    }

    /// The key id that all others are held against: that of `tenc`, else that of the manifest.
    fn key_id(&self) -> Option<KeyId> {
        let signalled = || self.track.signals.iter().find_map(|signal| signal.key_id);
        (self.parts.key_id()).or_else(|| signalled().map(KeyId::new))
    }

    /// Key ids that stand in UUID order. `alone` is for a place that has one and no other.
    fn key_ids(&mut self, ids: &[[u8; 16]], alone: bool, at: &str) {
        let Some(expected) = self.key_id() else {
            return;
        };
        if ids.is_empty() || ids.contains(expected.as_bytes()) {
            return;
        }
        if ids.contains(&expected.to_guid()) {
            let what = format!(
                "{} stands there, the key id {expected} in GUID order",
                KeyId::new(expected.to_guid())
            );
            return self.find(Fault::KeyIdByteOrder, at, what);
        }
        let what = match (alone, ids) {
            (true, [id, ..]) | (false, [id]) => {
                format!(
                    "{} stands there, and the key id of tenc is {expected}",
                    KeyId::new(*id)
                )
            }
            _ => format!(
                "{} key ids stand there, and none is {expected} of tenc",
                ids.len()
            ),
        };
        self.find(Fault::KeyIdMismatch, at, what);
    }

    fn widevine(&mut self, data: &[u8], at: &str) {
        let Some(payload) = widevine::Payload::read(data) else {
            return self.find(
                Fault::Malformed,
                at,
                "the Widevine payload is no protocol buffer",
            );
        };
        let ids: Vec<[u8; 16]> = (payload.key_ids.iter())
            .filter_map(|id| (*id).try_into().ok())
            .collect();
        self.key_ids(&ids, false, at);
        let scheme = self.parts.protection().map(|protection| protection.scheme);
        if let (Some(written), Some(scheme)) = (payload.scheme, scheme)
            && written != *four_cc(scheme).as_bytes()
        {
            let what = format!(
                "the Widevine payload says {}, and schm says {}",
                written.escape_ascii(),
                four_cc(scheme)
            );
            self.find(Fault::SchemeMismatch, at, what);
        }
    }

    fn playready(&mut self, header: &super::playready::Header, at: &str) {
        let scheme = self.parts.protection().map(|protection| protection.scheme);
        if let Some(expected) = self.key_id() {
            let ids: Vec<[u8; 16]> = header.keys.iter().map(|key| key.id).collect();
            if !ids.is_empty() && !ids.contains(&expected.to_guid()) {
                if ids.contains(expected.as_bytes()) {
                    let what = format!(
                        "the PlayReady header has the key id {expected} in UUID order, where GUID order is meant"
                    );
                    self.find(Fault::KeyIdByteOrder, at, what);
                } else {
                    let what = format!("the PlayReady header has no key id {expected}");
                    self.find(Fault::KeyIdMismatch, at, what);
                }
            }
        }
        if scheme == Some(Scheme::Cbcs) && !header.knows_cbc() {
            let what = format!(
                "schm says cbcs, and the PlayReady header is of version {}",
                header.version
            );
            self.find(Fault::PlayreadyHeaderVersion, at, what);
        }
        let mut algorithms = header
            .keys
            .iter()
            .filter_map(|key| key.algorithm.as_deref());
        let odd = match scheme {
            Some(Scheme::Cenc) => algorithms.find(|algorithm| *algorithm != "AESCTR"),
            Some(Scheme::Cbcs) => algorithms.find(|algorithm| *algorithm != "AESCBC"),
            None => None,
        };
        // An old header cannot say AESCBC: that it is old says it all.
        if let (Some(algorithm), Some(scheme)) = (odd, scheme)
            && (scheme == Scheme::Cenc || header.knows_cbc())
        {
            let what = format!("ALGID is {algorithm}, and schm says {}", four_cc(scheme));
            self.find(Fault::SchemeMismatch, at, what);
        }
    }

    /// A `pssh` of the manifest beside those of the init segment.
    fn pssh_of_both(&mut self, pssh: &reader::mp4::Pssh, at: &str) {
        let Some((_, header)) = &self.parts.init else {
            return;
        };
        let same = |other: &&reader::mp4::Pssh| other.system == pssh.system;
        let mut others = header.pssh.iter().filter(same).peekable();
        let Some(first) = others.peek().map(|first| first.offset) else {
            return;
        };
        let equal =
            others.any(|other| (&other.key_ids, &other.data) == (&pssh.key_ids, &pssh.data));
        if !equal {
            let system = System::of_id(pssh.system);
            let what = format!("no pssh of {system} in the init segment is like it");
            let place = self.title.place(self.track, at).at_offset(first);
            self.findings
                .push(Finding::new(Fault::PsshMismatch, place, what));
        }
    }

    /// PlayReady checksums, where a licence gave the key.
    fn checksums(&mut self, keys: &BTreeMap<KeyId, ContentKey>) {
        let headers = (self.track.signals.iter()).flat_map(|signal| {
            signal
                .playready
                .iter()
                .map(|header| (signal.at.as_str(), header))
        });
        let headers: Vec<_> = headers.collect();
        for (at, header) in headers {
            for key in &header.keys {
                let Some(checksum) = &key.checksum else {
                    continue;
                };
                let guid = KeyId::new(KeyId::new(key.id).to_guid());
                // A key id in the wrong order is a finding of its own: the checksum is held against the key that is meant.
                let meant = [guid, KeyId::new(key.id)];
                let found = meant.iter().find_map(|id| Some((*id, keys.get(id)?)));
                if let Some(what) = wrong_checksum(checksum, key.algorithm.as_deref(), found) {
                    self.find(Fault::PlayreadyChecksum, at, what);
                }
            }
        }
    }

    /// Whether samples show that the licence's key is the track's.
    fn key(&mut self, keys: &BTreeMap<KeyId, ContentKey>) -> bool {
        let Some((_, header)) = &self.parts.init else {
            return false;
        };
        let Some(protection) = &header.protection else {
            return false;
        };
        let Some(key) = keys.get(&KeyId::new(protection.kid)) else {
            return false;
        };
        let mut right = false;
        for segment in &self.parts.segments {
            match sample::judge(header, protection, key, segment) {
                Ok(Verdict::Right) => right = true,
                Ok(Verdict::Unknown) => {}
                Ok(Verdict::Wrong(why)) => {
                    let key_id = KeyId::new(protection.kid);
                    let what =
                        format!("the key that the licence gives for {key_id} is another: {why}");
                    self.find(Fault::WrongKey, "segment", what);
                    return false;
                }
                Err(what) => self.find(Fault::Malformed, "segment", what),
            }
        }
        right
    }
}

/// What is wrong with a checksum; `None` if nothing is, or if the key is not known.
fn wrong_checksum(
    checksum: &[u8],
    algorithm: Option<&str>,
    key: Option<(KeyId, &ContentKey)>,
) -> Option<String> {
    if algorithm == Some("AESCBC") {
        return Some("a key of AESCBC has a checksum, which that knows none of".to_owned());
    }
    if checksum.len() != 8 {
        return Some(format!("the checksum has {} bytes, not 8", checksum.len()));
    }
    let (key_id, key) = key?;
    if checksum == checksum_of(key.expose(), &key_id.to_guid()) {
        return None;
    }
    Some(
        match checksum == checksum_of(key.expose(), key_id.as_bytes()) {
            true => format!("the checksum is that of {key_id} in UUID order"),
            false => format!("the checksum is not that of {key_id} under the key of the licence"),
        },
    )
}

/// Session keys that are no keys of a playlist (RFC 8216 4.3.4.5).
fn session_keys(looked: &Looked, findings: &mut Vec<Finding>) {
    if looked.title.cut {
        return;
    }
    let same = |one: &Signal, two: &Signal| {
        one.key_uri == two.key_uri && one.scheme == two.scheme && one.key_format == two.key_format
    };
    for session in &looked.title.session {
        let tracks = looked.title.tracks.iter();
        let mut tags = tracks.flat_map(|track| &track.signals);
        if !tags.any(|tag| same(session, tag)) {
            let place = Place::of(&looked.title.url, None, &session.at);
            let what = format!(
                "no EXT-X-KEY has this METHOD, KEYFORMAT and URI of {}",
                session.system
            );
            findings.push(Finding::new(Fault::SessionKeyMismatch, place, what));
        }
    }
}

/// Licence URLs of one system that differ among places that mean the same.
fn license_urls(looked: &[Looked], findings: &mut Vec<Finding>) {
    let ids: BTreeSet<KeyId> = (looked.iter().flat_map(|looked| &looked.parts))
        .filter_map(Parts::key_id)
        .collect();
    let mut first: BTreeMap<System, (BTreeSet<String>, String)> = BTreeMap::new();
    for looked in looked {
        for track in &looked.title.tracks {
            for signal in &track.signals {
                let mut find = |what: String| {
                    let place = looked.place(track, &signal.at);
                    findings.push(Finding::new(Fault::LicenseUrlMismatch, place, what));
                };
                let spelled = |url: &Url| match signal.system {
                    // Each key is a file of its own, called as its packager likes.
                    System::Identity => url.origin().ascii_serialization(),
                    _ => without_key_ids(url, &ids),
                };
                // Elements of one kind are alternatives; a client reads one kind, and must get the same from any.
                let mut kinds: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
                for (what, url) in &signal.license_urls {
                    kinds.entry(what).or_default().insert(spelled(url));
                }
                let mut kinds = kinds.into_iter();
                let Some((kind, urls)) = kinds.next() else {
                    continue;
                };
                for (other, others) in kinds {
                    if others != urls {
                        find(format!(
                            "{other} is {}, and {kind} is {}",
                            listed(&others),
                            listed(&urls)
                        ));
                    }
                }
                let place = format!("{} of {}", signal.at, track.name);
                match first.get(&signal.system) {
                    None => {
                        first.insert(signal.system, (urls, place));
                    }
                    Some((others, elsewhere)) if *others != urls => find(format!(
                        "{} asks {}, and {elsewhere} asks {}",
                        signal.system,
                        listed(&urls),
                        listed(others)
                    )),
                    Some(_) => {}
                }
            }
        }
    }
}

fn listed(urls: &BTreeSet<String>) -> String {
    urls.iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A URL as it would be of any key: without query, and with `{kid}` for key ids in its path.
fn without_key_ids(url: &Url, ids: &BTreeSet<KeyId>) -> String {
    let mut text = shown(url);
    for id in ids {
        let uuid = id.to_string();
        let digits = uuid.replace('-', "");
        let spellings = [
            uuid.to_uppercase(),
            digits.to_uppercase(),
            id.to_base64url(),
            uuid,
            digits,
        ];
        for spelling in spellings {
            text = text.replace(&spelling, "{kid}");
        }
    }
    text
}

/// Init segments that differ over segments that are shared.
fn shared_segments(looked: &[Looked], findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<&Url, (&Looked, &Track, &Parts)> = BTreeMap::new();
    for looked in looked {
        for (track, parts) in looked.tracks() {
            let (Some(segment), Some((bytes, header))) = (track.segments.first(), &parts.init)
            else {
                continue;
            };
            if segment.range.is_some() {
                continue;
            }
            let Some((other, theirs, parts)) = first.get(&segment.url) else {
                first.insert(&segment.url, (looked, track, parts));
                continue;
            };
            let Some((others, other_header)) = &parts.init else {
                continue;
            };
            if bytes != others {
                let what = match (&header.protection, &other_header.protection) {
                    (Some(one), Some(two)) if one.kid != two.kid => "their key ids differ",
                    (Some(one), Some(two)) if !same_protection(one, two) => {
                        "their scheme, IV or pattern differ"
                    }
                    _ => "their bytes differ",
                };
                findings.push(Finding::new(
                    Fault::InitMismatch,
                    looked.place(track, "init segment"),
                    format!(
                        "the segments are also those of {} in {}, whose init segment is another: {what}",
                        theirs.name,
                        shown(&other.title.url)
                    ),
                ));
            }
        }
    }
}

fn same_protection(one: &Protection, two: &Protection) -> bool {
    let facts = |protection: &Protection| {
        (
            protection.scheme,
            protection.per_sample_iv_size,
            protection.constant_iv,
            protection.pattern,
        )
    };
    facts(one) == facts(two)
}

/// Keys that encrypt under two schemes (DASH-IF Guidelines-Security).
fn schemes(looked: &[Looked], findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<KeyId, (Scheme, &Track)> = BTreeMap::new();
    for looked in looked {
        for (track, parts) in looked.tracks() {
            let (Some(key_id), Some(protection)) = (parts.key_id(), parts.protection()) else {
                continue;
            };
            let (scheme, other) = first.entry(key_id).or_insert((protection.scheme, track));
            if *scheme != protection.scheme {
                let what = format!(
                    "key {key_id} encrypts {} here, and {} of {}",
                    four_cc(protection.scheme),
                    four_cc(*scheme),
                    other.name
                );
                let place = looked.place(track, "tenc").at_offset(protection.kid_offset);
                findings.push(Finding::new(Fault::KeyUnderTwoSchemes, place, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_published_vector() {
        // KID 0101020305080d1522375990e9000000, key 00100100200300500801302103405500.
        let key_id: KeyId = "01010203-0508-0d15-2237-5990e9000000".parse().unwrap();
        let key = 0x0010_0100_2003_0050_0801_3021_0340_5500_u128;
        let key = ContentKey::take(&mut key.to_be_bytes());
        let right = [0x55, 0x5e, 0x0a, 0x9b, 0x9f, 0xf2, 0x8e, 0x28];
        let known = Some((key_id, &key));
        assert_eq!(wrong_checksum(&right, Some("AESCTR"), known), None);
        assert_eq!(wrong_checksum(&right, Some("AESCTR"), None), None);
        for (checksum, algorithm, said) in [
            (&right[..], "AESCBC", "AESCBC"),
            (&right[..7], "AESCTR", "7 bytes"),
            (&[0; 8], "AESCTR", "is not that of"),
        ] {
            let what = wrong_checksum(checksum, Some(algorithm), known).unwrap();
            assert!(what.contains(said), "{what}");
        }
        let turned = checksum_of(key.expose(), key_id.as_bytes());
        let what = wrong_checksum(&turned, None, known).unwrap();
        assert!(what.contains("in UUID order"), "{what}");
    }

    #[test]
    fn urls_of_different_keys_are_one() {
        let id: KeyId = "9eb4050d-e44b-4802-932e-27d75083e266".parse().unwrap();
        let ids = BTreeSet::from([id]);
        for path in [
            "k/9eb4050d-e44b-4802-932e-27d75083e266?a=b",
            "k/9EB4050DE44B4802932E27D75083E266",
            "k/nrQFDeRLSAKTLifXUIPiZg",
        ] {
            let url = Url::parse("https://l.example/")
                .unwrap()
                .join(path)
                .unwrap();
            assert_eq!(without_key_ids(&url, &ids), "https://l.example/k/{kid}");
        }
    }
}
