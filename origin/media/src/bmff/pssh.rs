//! `pssh`: what a DRM system needs to ask for a licence (ISO/IEC 23001-7 8.1).

use keystore_types::KeyId;

use super::writer::BoxWriter;

/// A protection system specific header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pssh {
    /// The DRM system, as the 16 bytes of its UUID.
    pub system_id: [u8; 16],
    /// Key ids in the box itself: some write version 1, none writes version 0.
    pub key_ids: Vec<KeyId>,
    /// The system's own bytes.
    pub data: Vec<u8>,
}

impl Pssh {
    /// The whole box.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = BoxWriter::new();
        self.write(&mut writer);
        writer.into_bytes()
    }

    pub(crate) fn write(&self, w: &mut BoxWriter) {
        let count =
            |len| u32::try_from(len).expect("a title has few keys, and their data fits a manifest");
        w.full(b"pssh", u8::from(!self.key_ids.is_empty()), 0, |w| {
            w.raw(&self.system_id);
            if !self.key_ids.is_empty() {
                w.u32(count(self.key_ids.len()));
                self.key_ids.iter().for_each(|id| w.raw(id.as_bytes()));
            }
            w.u32(count(self.data.len()));
            w.raw(&self.data);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unhex;

    #[test]
    fn version_1_vector_of_shaka_packager() {
        let pssh = Pssh {
            system_id: unhex("020305070b0d1113171d1f25292b2f35")
                .try_into()
                .unwrap(),
            key_ids: vec![KeyId::new(
                unhex("0101020305080d1522375990e9000000")
                    .try_into()
                    .unwrap(),
            )],
            data: unhex("6544617368207061636b61676572"),
        };
        let expected = "000000427073736801000000020305070b0d1113171d1f25292b2f350000000101010203050\
                        80d1522375990e90000000000000e6544617368207061636b61676572";
        assert_eq!(pssh.to_bytes(), unhex(expected));
    }

    #[test]
    fn version_0_vector_of_shaka_packager() {
        let pssh = Pssh {
            system_id: unhex("bbbbbbbbbaaaaaaaaaaaaddddddddddd")
                .try_into()
                .unwrap(),
            key_ids: Vec::new(),
            data: unhex("fffffffff000000000000ddddddd"),
        };
        let expected = "0000002e7073736800000000bbbbbbbbbaaaaaaaaaaaaddddddddddd0000000efffffffff000000000000ddddddd";
        assert_eq!(pssh.to_bytes(), unhex(expected));
    }
}
