//! A key server in miniature: signalling for every system, keys that follow from their ids, requests as text.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file that includes this uses a part"
)]

use std::path::{Path, PathBuf};

use cpix::delivery::Certificate;
use cpix::signalling::{SignalledKey, Signalling, Signals};
use cpix::speke::{Headers, IssuedKey, Release, Request, Response};
use cpix::{Error, ErrorKind, Hdcp, Limits, SystemId};
use keystore_types::{ConstantIv, ContentKey, KeyId};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;

/// The time at which everything is valid.
pub const NOW: u64 = 1_900_000_000;

/// The version of most tests.
pub const V2: Option<&str> = Some("2.0");

/// Every system of the registry that this product signals.
pub struct Payloads;

impl Signalling for Payloads {
    fn signals(&self, system: SystemId, key: &SignalledKey<'_>) -> Option<Signals> {
        let key_id = key.key_id;
        let pssh = |data: &[u8]| {
            let mut pssh = (32 + u32::try_from(data.len()).unwrap())
                .to_be_bytes()
                .to_vec();
            pssh.extend(b"pssh\0\0\0\0");
            pssh.extend(system.as_bytes());
            pssh.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            pssh.extend(data);
            pssh
        };
        let mut signals = match system {
            SystemId::WIDEVINE => Signals::widevine(pssh(key_id.as_bytes()), key_id),
            SystemId::PLAYREADY => {
                let object = [b"PRO".as_slice(), &key_id.to_guid()].concat();
                Signals::playready(pssh(&object), object)
            }
            SystemId::FAIRPLAY => Signals::fairplay(format!("skd://{key_id}")),
            SystemId::CLEAR_KEY => Signals::clear_key("https://license.example/clearkey/film"),
            SystemId::HLS_AES_128 | SystemId::SPEKE_V1_AES_128 => {
                Signals::identity(format!("https://license.example/{key_id}"), key.explicit_iv)
            }
            _ => return None,
        };
        signals.robustness = Some("HW_SECURE_ALL".to_owned());
        signals.hls_allowed_cpc = Some(format!("{}:HW", SystemId::WIDEVINE));
        Some(signals)
    }
}

/// The key of an id, the same each time.
pub fn key_of(key_id: KeyId) -> ContentKey {
    let digest = digest(&SHA256, key_id.as_bytes());
    let mut bytes: [u8; 16] = digest.as_ref()[..16].try_into().unwrap();
    ContentKey::take(&mut bytes)
}

pub fn headers(version: Option<&str>) -> Headers<'_> {
    Headers {
        content_type: Some("application/xml"),
        speke_version: version,
    }
}

pub fn read(version: Option<&str>, body: &str) -> Result<Request, Error> {
    Request::read(&headers(version), body.as_bytes(), &Limits::default())
}

/// The answer to a request, encrypted to its certificates if it has any, which must be `enrolled`.
pub fn serve(
    version: Option<&str>,
    body: &str,
    enrolled: &[Certificate],
) -> Result<Response, Error> {
    let random = SystemRandom::new();
    let request = read(version, body)?;
    let release = Release {
        danger_clear: true,
        ..Release::enrolled(enrolled, NOW, &random)
    };
    respond(&request, &release)
}

pub fn respond(request: &Request, release: &Release<'_>) -> Result<Response, Error> {
    let prepared = request.prepare(&Payloads, release)?;
    let keys: Vec<(KeyId, ContentKey)> = prepared.key_ids().map(|id| (id, key_of(id))).collect();
    let hdcp = Hdcp {
        hls_level: Some("TYPE-1".to_owned()),
        output_protection: None,
    };
    let issued: Vec<_> = (keys.iter())
        .map(|(key_id, key)| IssuedKey {
            key_id: *key_id,
            key,
            explicit_iv: Some(ConstantIv::new([9; 16])),
            hdcp: Some(&hdcp),
        })
        .collect();
    prepared.respond(&issued)
}

/// A request of SPEKE 2.0, to be bent by a test.
#[derive(Clone)]
pub struct Text {
    pub cpix_version: &'static str,
    pub scheme: &'static str,
    pub systems: Vec<SystemId>,
    /// Track type and filters of each key.
    pub contract: Vec<(String, String)>,
    /// With a key period, as live encryptors have it.
    pub live: bool,
}

impl Text {
    pub fn new(contract: &[(&str, &str)]) -> Self {
        let owned = |(track_type, filters): &(&str, &str)| {
            ((*track_type).to_owned(), (*filters).to_owned())
        };
        Self {
            cpix_version: "2.3",
            scheme: "cenc",
            systems: vec![SystemId::WIDEVINE],
            contract: contract.iter().map(owned).collect(),
            live: false,
        }
    }

    /// One key for video, one for audio.
    pub fn separate() -> Self {
        Self::new(&[
            ("VIDEO", "<cpix:VideoFilter/>"),
            ("AUDIO", "<cpix:AudioFilter/>"),
        ])
    }

    pub fn write(&self) -> String {
        let master = if self.cpix_version == "2.4" {
            "multiVariant"
        } else {
            "master"
        };
        let keys = 0..self.contract.len();
        let content_keys: String = keys
            .clone()
            .map(|key| {
                let (id, scheme) = (key_id(key), self.scheme);
                format!("    <cpix:ContentKey kid=\"{id}\" commonEncryptionScheme=\"{scheme}\"/>\n")
            })
            .collect();
        let mut systems = String::new();
        for system in &self.systems {
            for key in keys.clone() {
                let id = key_id(key);
                systems += &format!("    <cpix:DRMSystem kid=\"{id}\" systemId=\"{system}\">\n");
                systems += "      <cpix:PSSH/>\n";
                if *system != SystemId::FAIRPLAY {
                    systems += "      <cpix:ContentProtectionData/>\n";
                }
                for playlist in ["media", master] {
                    systems += &format!("      <cpix:HLSSignalingData playlist=\"{playlist}\"/>\n");
                }
                systems += "    </cpix:DRMSystem>\n";
            }
        }
        let (periods, filter) = if self.live {
            (
                "  <cpix:ContentKeyPeriodList>\n    <cpix:ContentKeyPeriod id=\"period_7\" index=\"7\"/>\n  \
                 </cpix:ContentKeyPeriodList>\n",
                "<cpix:KeyPeriodFilter periodId=\"period_7\"/>",
            )
        } else {
            ("", "")
        };
        let rules: String = (self.contract.iter().enumerate())
            .map(|(key, (track_type, filters))| {
                let id = key_id(key);
                format!(
                    "    <cpix:ContentKeyUsageRule kid=\"{id}\" intendedTrackType=\"{track_type}\">\
                     {filter}{filters}</cpix:ContentKeyUsageRule>\n"
                )
            })
            .collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <cpix:CPIX xmlns:cpix=\"urn:dashif:org:cpix\" xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\" \
             contentId=\"film\" version=\"{}\">\n\
             \x20 <cpix:ContentKeyList>\n{content_keys}  </cpix:ContentKeyList>\n\
             \x20 <cpix:DRMSystemList>\n{systems}  </cpix:DRMSystemList>\n\
             {periods}\
             \x20 <cpix:ContentKeyUsageRuleList>\n{rules}  </cpix:ContentKeyUsageRuleList>\n\
             </cpix:CPIX>\n",
            self.cpix_version
        )
    }
}

/// The id of the key of this number.
pub fn key_id(number: usize) -> KeyId {
    format!("0f083e4e-b831-4a3d-917e-{number:012x}")
        .parse()
        .unwrap()
}

/// The kind and the words in which a request of SPEKE 2.0 is refused.
pub fn refusal(body: &str) -> (ErrorKind, String) {
    let error = serve(V2, body, &[]).unwrap_err();
    (error.kind(), error.to_string())
}

/// Written out, so that the crate's own encoder is not asked.
pub fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (chunk.iter().chain(&[0; 2]).take(3))
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let digit = DIGITS[group >> (18 - 6 * digit) & 63];
            text.push(if shown { char::from(digit) } else { '=' });
        }
    }
    text
}

/// A file of the tests.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

pub fn file(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn certificate(name: &str) -> Certificate {
    Certificate::from_pem(&file(&format!("recipients/{name}.pem"))).unwrap()
}

/// Compares with a committed file; `CASTELLUM_UPDATE_GOLDEN=1` writes it anew.
pub fn golden(name: &str, text: &str) {
    if std::env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
        std::fs::write(path(name), text).unwrap();
    }
    let expected = std::fs::read_to_string(path(name)).unwrap_or_default();
    assert_eq!(text, expected, "{name}");
}
