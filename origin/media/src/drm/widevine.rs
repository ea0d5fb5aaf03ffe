//! Google Widevine: the `pssh` payload is a small protobuf message (`WidevinePsshData`).

use keystore_types::{KeyId, Scheme};

use super::SystemId;
use crate::bmff::pssh::Pssh;

/// The system's UUID, which is also its HLS `KEYFORMAT`.
pub const SYSTEM: SystemId = SystemId::new(0xedef_8ba9_79d6_4ace_a3c8_27dc_d51d_21ed);

/// `value` of the `ContentProtection` element.
pub(crate) const NAME: &str = "Widevine";

// Tags of the fields: number << 3 | wire type.
const KEY_ID: u8 = 2 << 3 | 2;
const PROTECTION_SCHEME: u8 = 9 << 3;

/// The `pssh` for these keys: version 0, since the ids stand in the payload.
///
/// `content_id`, `provider` and `policy` are left out: a licence request names the keys, and the entitlement, not
/// the media, picks the policy.
pub fn pssh(key_ids: &[KeyId], scheme: Scheme) -> Pssh {
    let mut data = Vec::new();
    for key_id in key_ids {
        data.extend([KEY_ID, 16]);
        data.extend(key_id.as_bytes());
    }
    data.push(PROTECTION_SCHEME);
    push_varint(&mut data, u32::from_be_bytes(scheme.four_cc()));
    Pssh {
        system_id: *SYSTEM.as_bytes(),
        key_ids: Vec::new(),
        data,
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let [.., low] = (value & 0x7f).to_be_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unhex;

    fn vector(tail: &str) -> Vec<u8> {
        let head = "000000387073736800000000edef8ba979d64acea3c827dcd51d21ed\
                    0000001812100101020305080d1522375990e9000000";
        unhex(&format!("{head}{tail}"))
    }

    #[test]
    fn vectors_of_both_schemes() {
        let keys = [KeyId::new(
            unhex("0101020305080d1522375990e9000000")
                .try_into()
                .unwrap(),
        )];
        assert_eq!(pssh(&keys, Scheme::Cenc).to_bytes(), vector("48e3dc959b06"));
        assert_eq!(pssh(&keys, Scheme::Cbcs).to_bytes(), vector("48f3c6899b06"));
    }
}
