//! What of Widevine's messages is public: the one that is no licence request, and its answer.
//!
//! Both are a `SignedMessage` of protobuf: field 1 is its type, 4 for the request and 5 for the certificate, which stands
//! in field 2.

/// A service-certificate request: a message whose type is 4, and nothing more, as browsers' EME tests have it. Players that
/// have no certificate yet send it before they ask for a licence.
pub const CERTIFICATE_REQUEST: [u8; 2] = [0x08, 0x04];

/// The front of the answer: type 5, and the tag of the certificate.
const CERTIFICATE_RESPONSE: [u8; 3] = [0x08, 0x05, 0x12];

/// Whether the body asks for the certificate and not for a licence.
pub fn asks_for_certificate(body: &[u8]) -> bool {
    body == CERTIFICATE_REQUEST
}

/// A certificate in both of its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// As `MediaKeys.setServerCertificate` takes it.
    pub bare: Vec<u8>,
    /// As the answer to [`CERTIFICATE_REQUEST`].
    pub message: Vec<u8>,
}

impl Certificate {
    /// Takes it in either form; none where it is something else, such as a licence, or cut off.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Some(rest) = bytes.strip_prefix(&CERTIFICATE_RESPONSE) else {
            let mut message = CERTIFICATE_RESPONSE.to_vec();
            push_varint(&mut message, bytes.len());
            message.extend(bytes);
            return is_signed(bytes).then(|| Self {
                bare: bytes.to_vec(),
                message,
            });
        };
        let (bare, _) = counted(rest)?;
        is_signed(bare).then(|| Self {
            bare: bare.to_vec(),
            message: bytes.to_vec(),
        })
    }
}

/// Whether it is a certificate with its signature, which players verify: fields 1 and 2, both bytes.
fn is_signed(bytes: &[u8]) -> bool {
    let signature = behind(0x0a, bytes);
    signature.is_some_and(|signature| behind(0x12, signature).is_some())
}

/// What follows a field that begins so and is not empty.
fn behind(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (field, rest) = counted(bytes.strip_prefix(&[tag])?)?;
    (!field.is_empty()).then_some(rest)
}

/// Bytes behind their length, and what follows them.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = varint(bytes)?;
    rest.split_at_checked(len)
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        let [low, ..] = value.to_le_bytes();
        out.push(low | 0x80);
        value >>= 7;
    }
    let [low, ..] = value.to_le_bytes();
    out.push(low);
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    // No certificate needs a longer length.
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_bytes_ask_for_a_certificate() {
        assert!(asks_for_certificate(&[8, 4]));
        for body in [&[8, 4, 0][..], &[8], &[], &[8, 1]] {
            assert!(!asks_for_certificate(body), "{body:?}");
        }
    }

    #[test]
    fn a_certificate_is_read_in_either_form() {
        let of = |tag: &[u8], byte, len| [tag, &vec![byte; len]].concat();
        let unsigned = of(&[0x0a, 0xc1, 0x02], 7, 321);
        let bare = [unsigned.clone(), of(&[0x12, 0x80, 0x02], 9, 256)].concat();
        let certificate = Certificate::read(&bare).unwrap();
        assert_eq!(certificate.message[..5], [0x08, 0x05, 0x12, 0xc7, 0x04]);
        assert_eq!(certificate.message[5..], bare);
        // A signature may follow.
        let mut message = certificate.message.clone();
        message.extend([0x1a, 0x01, 0x00]);
        let same = Certificate::read(&message).unwrap();
        assert_eq!((&same.bare, same.message), (&bare, message));
        let cut = &certificate.message[..100];
        let licence = [8, 2, 0x12, 4, b'k', b'e', b'y', b's'];
        for bytes in [
            &b""[..],
            cut,
            &CERTIFICATE_RESPONSE,
            &[8, 5, 0x12, 0],
            &unsigned,
            &bare[..bare.len() - 1],
            &licence,
        ] {
            assert_eq!(Certificate::read(bytes), None, "{bytes:?}");
        }
        let endless = [&CERTIFICATE_RESPONSE[..], &[0xff; 9]].concat();
        assert_eq!(Certificate::read(&endless), None);
    }
}
