//! Microsoft PlayReady: a PlayReady Object (PRO) around a `WRMHEADER` in XML (PlayReady Header Specification).
//!
//! Key ids stand in GUID byte order here, and nowhere else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keystore_types::{KeyId, Scheme};
use origin_cipher::Aes128Key;

use super::SystemId;
use crate::bmff::pssh::Pssh;

/// The system's UUID.
pub const SYSTEM: SystemId = SystemId::new(0x9a04_f079_9840_4286_ab92_e65b_e088_5f95);

/// The HLS `KEYFORMAT`.
pub const KEY_FORMAT: &str = "com.microsoft.playready";

/// `value` of the `ContentProtection` element (PlayReady DASH specification).
pub(crate) const NAME: &str = "MSPR 2.0";

/// The type of the only record written: a `WRMHEADER`.
const HEADER_RECORD: u16 = 1;

/// The first 8 bytes of the key id, in GUID order, encrypted with the key: a client's check that it got the right
/// key. Allowed with AES-CTR only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum([u8; 8]);

impl Checksum {
    /// The checksum of `key_id` under its key.
    pub fn compute(key_id: KeyId, key: &Aes128Key) -> Self {
        let block = key.block(&key_id.to_guid());
        let [a, b, c, d, e, f, g, h, ..] = block;
        Self([a, b, c, d, e, f, g, h])
    }

    /// base64, as the header wants it.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }
}

/// What a header says: one key, the scheme, and where to ask.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The key.
    pub key_id: KeyId,
    /// Decides the version: 4.0 for `cenc`, which every client reads, 4.3 for `cbcs`, which needs it.
    pub scheme: Scheme,
    /// `LA_URL`, absolute.
    pub license_url: Option<&'a str>,
    /// `CHECKSUM`; never written for `cbcs`. Manifests leave it out, so that they can be written without keys.
    pub checksum: Option<Checksum>,
}

impl Header<'_> {
    /// The header in canonical XML: namespace first, attributes in alphabetical order, explicit end tags.
    pub fn to_xml(&self) -> String {
        let key_id = STANDARD.encode(self.key_id.to_guid());
        let license_url = self.license_url.map_or_else(String::new, |url| {
            format!("<LA_URL>{}</LA_URL>", quick_xml::escape::escape(url))
        });
        let (version, data) = match self.scheme {
            Scheme::Cenc => {
                let checksum = self.checksum.map_or_else(String::new, |checksum| {
                    format!("<CHECKSUM>{}</CHECKSUM>", checksum.to_base64())
                });
                let info = "<PROTECTINFO><KEYLEN>16</KEYLEN><ALGID>AESCTR</ALGID></PROTECTINFO>";
                (
                    "4.0.0.0",
                    format!("{info}<KID>{key_id}</KID>{checksum}{license_url}"),
                )
            }
            Scheme::Cbcs => {
                let kid = format!("<KID ALGID=\"AESCBC\" VALUE=\"{key_id}\"></KID>");
                let info = format!("<PROTECTINFO><KIDS>{kid}</KIDS></PROTECTINFO>");
                ("4.3.0.0", format!("{info}{license_url}"))
            }
        };
        format!(
            "<WRMHEADER xmlns=\"http://schemas.microsoft.com/DRM/2007/03/PlayReadyHeader\" \
             version=\"{version}\"><DATA>{data}</DATA></WRMHEADER>"
        )
    }

    /// The PlayReady Object: little-endian, the header as UTF-16LE without a byte order mark.
    ///
    /// ```text
    /// length u32 | record count u16 | record type u16 | record length u16 | header
    /// ```
    pub fn to_object(&self) -> Vec<u8> {
        let header: Vec<u8> = self
            .to_xml()
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let len = u16::try_from(header.len())
            .expect("configuration bounds a licence URL far below 32 kB");
        let mut object = Vec::with_capacity(10 + header.len());
        object.extend((u32::from(len) + 10).to_le_bytes());
        object.extend(1_u16.to_le_bytes());
        object.extend(HEADER_RECORD.to_le_bytes());
        object.extend(len.to_le_bytes());
        object.extend(header);
        object
    }

    /// The object in a `pssh` of version 0.
    pub fn pssh(&self) -> Pssh {
        Pssh {
            system_id: *SYSTEM.as_bytes(),
            key_ids: Vec::new(),
            data: self.to_object(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unhex;

    /// Microsoft's key seed (PlayReady "key seed" page), from which its published examples come.
    fn key_of_test_seed(key_id: KeyId) -> [u8; 16] {
        let seed = STANDARD
            .decode("XVBovsmzhP9gRIZxWfFta3VVRPzVEWmJsazEJ46I")
            .unwrap();
        let guid = key_id.to_guid();
        let digest = |parts: &[&[u8]]| ring::digest::digest(&ring::digest::SHA256, &parts.concat());
        let a = digest(&[&seed, &guid]);
        let b = digest(&[&seed, &guid, &seed]);
        let c = digest(&[&seed, &guid, &seed, &guid]);
        let fold = |i: usize| {
            [&a, &b, &c]
                .iter()
                .fold(0, |x, d| x ^ d.as_ref()[i] ^ d.as_ref()[i + 16])
        };
        std::array::from_fn(fold)
    }

    #[test]
    fn published_checksums() {
        for (uuid, guid, key, checksum) in [
            (
                "a2c786d0-f9ef-4cb3-b333-cd323a4284a5",
                "0IbHou/5s0yzM80yOkKEpQ==",
                "4edb7704cdbf03617f4800bd878a6df2",
                Some("xNvWVxoWk04="),
            ),
            (
                "db06a8fe-ec16-4de2-9228-2c71e9b856ab",
                "/qgG2xbs4k2SKCxx6bhWqw==",
                "3179923adf3c929892951e62f93a518a",
                Some("GnKaQIRacPU="),
            ),
            (
                "09e091ab-f838-41d2-9e35-58531fd19ec7",
                "q5HgCTj40kGeNVhTH9Gexw==",
                "9cb061164b7013eaefcc7d6d18424c2c",
                Some("w+OZVr8vzrQ="),
            ),
            (
                "334b5d3d-44f5-4f56-a410-e07caaa7160e",
                "PV1LM/VEVk+kEOB8qqcWDg==",
                "ae8b0d6d853c83a74a744fb80dfc8191",
                None,
            ),
        ] {
            let key_id: KeyId = uuid.parse().unwrap();
            assert_eq!(STANDARD.encode(key_id.to_guid()), guid);
            let derived = key_of_test_seed(key_id);
            assert_eq!(derived.to_vec(), unhex(key));
            if let Some(checksum) = checksum {
                let computed = Checksum::compute(key_id, &Aes128Key::new(&derived));
                assert_eq!(computed.to_base64(), checksum);
            }
        }
    }

    fn sha256(bytes: &[u8]) -> Vec<u8> {
        ring::digest::digest(&ring::digest::SHA256, bytes)
            .as_ref()
            .to_vec()
    }

    fn vector_key_id() -> KeyId {
        KeyId::new(
            unhex("0101020305080d1522375990e9000000")
                .try_into()
                .unwrap(),
        )
    }

    #[test]
    fn s5_whole_object_of_version_4_0() {
        let key = Aes128Key::new(
            &unhex("00100100200300500801302103405500")
                .try_into()
                .unwrap(),
        );
        let checksum = Checksum::compute(vector_key_id(), &key);
        assert_eq!(checksum.to_base64(), "VV4Km5/yjig=");
        let header = Header {
            key_id: vector_key_id(),
            scheme: Scheme::Cenc,
            license_url: None,
            checksum: Some(checksum),
        };
        assert_eq!(header.to_xml().len(), 254);
        assert_eq!(header.to_object().len(), 518);
        assert_eq!(
            sha256(&header.to_object()),
            unhex("1b8b8ab3dbf9ac994ba43ebdd452b1cfd97628fb2d25ce39e9a7d5b97ba51e92")
        );
        assert_eq!(
            sha256(&header.pssh().to_bytes()),
            unhex("1837fbd2926459c62c7b8169bf3544ae5693524ddb964b07a9f2329401ac8f6d")
        );
    }

    #[test]
    fn s5_whole_object_of_version_4_3_has_no_checksum() {
        let key = Aes128Key::new(&[0; 16]);
        let header = Header {
            key_id: vector_key_id(),
            scheme: Scheme::Cbcs,
            license_url: None,
            checksum: Some(Checksum::compute(vector_key_id(), &key)),
        };
        assert_eq!(header.to_xml().len(), 218);
        assert_eq!(
            sha256(&header.to_object()),
            unhex("1baa623ac4e3aad7ac9b0e90c50e45d57031f07dc7bd96bfb3c1c371ed36baec")
        );
        assert_eq!(
            sha256(&header.pssh().to_bytes()),
            unhex("f11ab1ec13c93320e20a2e29b2a47bb1de84ac0f459452830a26fdd96aaa74bd")
        );
    }

    #[test]
    fn a_licence_url_is_escaped() {
        let header = Header {
            key_id: vector_key_id(),
            scheme: Scheme::Cenc,
            license_url: Some("https://x/?a=1&b=2"),
            checksum: None,
        };
        assert!(
            header
                .to_xml()
                .contains("<LA_URL>https://x/?a=1&amp;b=2</LA_URL></DATA>")
        );
    }
}
