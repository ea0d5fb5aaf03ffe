//! What an audit finds: faults by name, each with its place, what is wrong there, and what to do.

use serde::Serialize;
use url::Url;

/// A fault of the field. Its name in kebab-case is stable: scripts and runbooks may look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Something that a manifest names is not served.
    NotServed,
    /// A manifest, an init segment, a segment or a PlayReady object cannot be read.
    Malformed,
    /// A manifest signals protection over a clear track, or none over a protected one.
    ProtectionMismatch,
    /// A key id is absent, or all zero.
    KeyIdMissing,
    /// A key id stands in the other of the two byte orders: GUID for UUID, or UUID for GUID.
    KeyIdByteOrder,
    /// A key id is not that of `tenc`.
    KeyIdMismatch,
    /// A scheme is not that of `schm`.
    SchemeMismatch,
    /// A `pssh` of the manifest is none of the init segment's for that system.
    PsshMismatch,
    /// Two manifests share segments and give them init segments that differ.
    InitMismatch,
    /// A session key is no key of a media playlist.
    SessionKeyMismatch,
    /// One key encrypts under two schemes.
    KeyUnderTwoSchemes,
    /// One key stands for tracks that different rules hold for.
    KeySharedAcrossRules,
    /// A PlayReady header is of a version that does not know the scheme.
    PlayreadyHeaderVersion,
    /// A PlayReady checksum is not that of key and key id.
    PlayreadyChecksum,
    /// FairPlay is signalled for AES-CTR.
    FairplayWithCenc,
    /// Licence URLs that should be one are several.
    LicenseUrlMismatch,
    /// A licence URL is not HTTPS.
    LicenseUrlInsecure,
    /// Nothing answers as a licence server.
    LicenseUnreachable,
    /// The licence server refuses the token.
    LicenseRefused,
    /// A policy that is named is not there, or none is named and rules go unheeded.
    MissingPolicy,
    /// The key that a licence hands out does not decrypt the segments.
    WrongKey,
}

impl Fault {
    /// What to do, for any place.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::NotServed => "publish what the manifest names, or take it out of the manifest",
            Self::Malformed => {
                "package the title anew; the box path and the offset say where reading ended"
            }
            Self::ProtectionMismatch => {
                "signal protection exactly where the sample entry is encv or enca, for all players take the manifest's word first"
            }
            Self::KeyIdMissing => {
                "write cenc:default_KID with the key id of tenc: players that lack it stall or refuse"
            }
            Self::KeyIdByteOrder => {
                "write PlayReady's KID and checksum in GUID order (first 4, 2 and 2 bytes reversed), all else in UUID order"
            }
            Self::KeyIdMismatch => {
                "write every key id from the one of tenc; after a change of keys, publish manifests and init segments together"
            }
            Self::SchemeMismatch => {
                "signal the scheme of schm: mp4protection@value, METHOD=SAMPLE-AES (cbcs) or SAMPLE-AES-CTR (cenc), AESCBC or AESCTR in PlayReady"
            }
            Self::PsshMismatch => {
                "write the same pssh in both places, or leave it out of the init segment: players differ in whose word they take"
            }
            Self::InitMismatch => "serve one init segment for one set of segments",
            Self::SessionKeyMismatch => {
                "copy METHOD, KEYFORMAT and URI of each EXT-X-SESSION-KEY from an EXT-X-KEY"
            }
            Self::KeyUnderTwoSchemes => "make a key of its own for each scheme",
            Self::KeySharedAcrossRules => {
                "give tracks of different rules keys of their own: a licence that holds the key opens all of them"
            }
            Self::PlayreadyHeaderVersion => {
                "write a header of version 4.3.0.0 with ALGID AESCBC for cbcs; 4.0.0.0 to 4.2.0.0 know AESCTR alone"
            }
            Self::PlayreadyChecksum => {
                "encrypt the KID in GUID order with AES-128-ECB under the key and write the first 8 bytes, or no checksum at all; none with AESCBC"
            }
            Self::FairplayWithCenc => {
                "signal FairPlay for cbcs alone: Apple's players decrypt no other"
            }
            Self::LicenseUrlMismatch => {
                "make every place that names a licence URL for this system name the same one: players differ in which they take"
            }
            Self::LicenseUrlInsecure => {
                "name an https URL: browsers block others, and tokens and keys would travel in the open"
            }
            Self::LicenseUnreachable => {
                "see that the licence server runs behind this URL, with an upstream for this system and a certificate that players trust"
            }
            Self::LicenseRefused => {
                "see what the token entitles to with `castellum token inspect` and `castellum license explain`"
            }
            Self::MissingPolicy => {
                "add the policy to the configuration, or name one that is there, in the URL, in the token or as license.default_policy"
            }
            Self::WrongKey => {
                "compare the key of the licence with the packager's: same key id, other key; after an import or a restore, export it anew"
            }
        }
    }

    /// The name.
    pub(crate) fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Place {
    /// The URL of the manifest, without its query.
    pub(crate) manifest: String,
    /// The Representation, or the playlist of the rendition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) representation: Option<String>,
    /// The element, tag or box.
    pub(crate) at: String,
    /// The offset in the init segment, where `at` is a box of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<usize>,
}

impl Place {
    /// A place in a manifest.
    pub(crate) fn of(manifest: &Url, representation: Option<&str>, at: impl Into<String>) -> Self {
        Self {
            manifest: shown(manifest),
            representation: representation.map(str::to_owned),
            at: at.into(),
            offset: None,
        }
    }

    /// The same, in a box.
    pub(crate) fn at_offset(self, offset: usize) -> Self {
        Self {
            offset: Some(offset),
            ..self
        }
    }
}

/// A fault in its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Finding {
    #[serde(rename = "name")]
    pub(crate) fault: Fault,
    #[serde(rename = "where")]
    pub(crate) place: Place,
    pub(crate) what: String,
    pub(crate) help: &'static str,
}

impl Finding {
    pub(crate) fn new(fault: Fault, place: Place, what: impl Into<String>) -> Self {
        Self {
            fault,
            place,
            what: what.into(),
            help: fault.help(),
        }
    }
}

/// A URL without what may hold a token: its query and user.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // A URL without a host has no user either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_query_and_user() {
        let url = Url::parse("https://u:p@h.example:8444/a/b?token=secret#c").unwrap();
        assert_eq!(shown(&url), "https://h.example:8444/a/b");
        let key = Url::parse("skd://9eb4050d?token=secret").unwrap();
        assert_eq!(shown(&key), "skd://9eb4050d");
    }

    #[test]
    fn names_are_kebab_case() {
        assert_eq!(Fault::KeyIdByteOrder.name(), "key-id-byte-order");
        assert_eq!(
            Fault::PlayreadyHeaderVersion.name(),
            "playready-header-version"
        );
    }
}
