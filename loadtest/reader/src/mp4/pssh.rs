//! `pssh`: what a DRM system needs to ask for a licence (ISO/IEC 23001-7 8.1).

use super::{Fields, Malformed};

/// A protection system specific header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pssh {
    /// The DRM system's UUID.
    pub system: [u8; 16],
    /// Key ids in the box itself; version 0 has none.
    pub key_ids: Vec<[u8; 16]>,
    /// The system's own bytes.
    pub data: Vec<u8>,
    /// Offset of the system's UUID in what was read.
    pub offset: usize,
}

impl Pssh {
    /// Reads one whole box, as an MPD or a key tag has it.
    ///
    /// # Errors
    /// Where it is another box, or cut off.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let fields = Fields::new("pssh", bytes);
        Self::fields(fields.child(b"pssh", "pssh")?)
    }

    pub(super) fn fields(mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let (version, _) = fields.full()?;
        if version > 1 {
            return Err(fields.fault("version is neither 0 nor 1"));
        }
        let offset = fields.offset;
        let system = fields.array()?;
        let mut key_ids = Vec::new();
        if version == 1 {
            for _ in 0..fields.u32()? {
                key_ids.push(fields.array()?);
            }
        }
        let len = fields.size()?;
        let data = fields.take(len)?.to_vec();
        Ok(Self {
            system,
            key_ids,
            data,
            offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, one key id and 14 bytes of data (shaka-packager's tests).
    const VECTOR: &[u8] = b"\0\0\0\x42pssh\x01\0\0\0\x02\x03\x05\x07\x0b\x0d\x11\x13\x17\x1d\x1f\x25\x29\x2b\x2f\x35\
        \0\0\0\x01\x01\x01\x02\x03\x05\x08\x0d\x15\x22\x37\x59\x90\xe9\0\0\0\0\0\0\x0eeDash packager";

    #[test]
    fn reads_the_vector_and_refuses_it_cut_off() {
        let pssh = Pssh::read(VECTOR).unwrap();
        assert_eq!(
            (pssh.system[0], pssh.system[15], pssh.offset),
            (2, 0x35, 12)
        );
        assert_eq!(pssh.key_ids.len(), 1);
        assert_eq!(pssh.key_ids[0][..4], [1, 1, 2, 3]);
        assert_eq!(pssh.data, b"eDash packager");
        assert!(Pssh::read(&VECTOR[..60]).is_err());
        let mut many = VECTOR.to_vec();
        many[28..32].fill(0xff);
        assert!(Pssh::read(&many).is_err(), "more key ids than the box has");
        assert!(Pssh::read(b"\0\0\0\x08free").is_err());
    }
}
