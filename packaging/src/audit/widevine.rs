//! Reading the payload of a Widevine `pssh` (shaka-packager `widevine_pssh_data.proto`), as far as it is judged.

/// What a payload says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Payload<'a> {
    /// Key ids, which may be of any length.
    pub(crate) key_ids: Vec<&'a [u8]>,
    /// The scheme's four letters.
    pub(crate) scheme: Option<[u8; 4]>,
}

impl<'a> Payload<'a> {
    /// Reads a payload; `None` where it is no protocol buffer.
    pub(crate) fn read(mut rest: &'a [u8]) -> Option<Self> {
        let mut payload = Self::default();
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            match (tag >> 3, tag & 7) {
                (2, 2) => payload.key_ids.push(delimited(&mut rest)?),
                (9, 0) => {
                    let scheme = u32::try_from(varint(&mut rest)?).ok()?;
                    payload.scheme = Some(scheme.to_be_bytes());
                }
                (_, 0) => {
                    varint(&mut rest)?;
                }
                (_, 1) => rest = rest.get(8..)?,
                (_, 2) => {
                    delimited(&mut rest)?;
                }
                (_, 5) => rest = rest.get(4..)?,
                _ => return None,
            }
        }
        Some(payload)
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_key_ids_and_scheme_among_other_fields() {
        let payload = b"\x12\x04abcd\x1a\x01x\x22\x01y\x48\xf3\xc6\x89\x9b\x06";
        let read = Payload::read(payload).unwrap();
        assert_eq!(read.key_ids, [b"abcd"]);
        assert_eq!(read.scheme, Some(*b"cbcs"));
        assert_eq!(Payload::read(&payload[..3]), None);
        assert_eq!(Payload::read(b"\x0f"), None, "no wire type");
        assert_eq!(Payload::read(b""), Some(Payload::default()));
    }
}
