use crate::{Aes128Key, BLOCK};

impl Aes128Key {
    /// Encrypts `src` into `dst` with the keystream of `iv`, from its byte `position` on.
    ///
    /// The counter block is `iv` followed by the number of the block in 64 bits, from 0 (ISO/IEC 23001-7 9.2, 8-byte
    /// IV). The keystream runs on over the protected bytes of all subsamples of one sample; `position`
    /// counts those. Decryption is the same operation.
    ///
    /// # Panics
    /// When `src` and `dst` differ in length.
    pub fn ctr(&self, iv: [u8; 8], position: u64, src: &[u8], dst: &mut [u8]) {
        assert_eq!(src.len(), dst.len(), "encryption never changes a length");
        let Some(kernel) = &self.kernel else {
            return self.portable.ctr(iv, position, src, dst);
        };
        let first = position / BLOCK as u64;
        let into = usize::from(position.to_le_bytes()[0]) % BLOCK;
        let (mut src, mut dst) = (src, dst);
        let mut next = first;
        if into != 0 {
            // What is left of a block that was begun.
            let mut counter = [0; BLOCK];
            counter[..8].copy_from_slice(&iv);
            counter[8..].copy_from_slice(&first.to_be_bytes());
            let keystream = self.block(&counter);
            let rest = &keystream[into..];
            let len = rest.len().min(src.len());
            let (now, later) = std::mem::take(&mut dst).split_at_mut(len);
            for ((to, from), key) in now.iter_mut().zip(src).zip(rest) {
                *to = from ^ key;
            }
            (src, dst) = (&src[len..], later);
            next = first.wrapping_add(1);
        }
        kernel.ctr(iv, next, src, dst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::testing::{KEY, hex, key, keys, noise};
    use crate::{Aes128Key, Form};

    const IV: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

    #[test]
    fn known_answer() {
        let plain: Vec<u8> = (0x00..=0x3f).collect();
        let mut cipher = vec![0; plain.len()];
        key().ctr(IV, 0, &plain, &mut cipher);
        assert_eq!(
            cipher,
            hex(
                "591e3e4f381575db10f068eec589d54f6ff3948ed395c24822097a715632cc97\
                 6a875eb39d357b83b41431391f8e4efec81ff74dd0e3c1048c6c08cf55e66675"
            )
        );
    }

    /// RFC 3686 6, the test vector whose counter begins as a sample's does. Wycheproof has no set for the counter mode.
    #[test]
    fn vector_of_rfc_3686() {
        let secret: [u8; 16] = 0xae68_52f8_1210_67cc_4bf7_a576_5577_f39e_u128.to_be_bytes();
        for form in Form::ALL.into_iter().filter(|form| form.is_available()) {
            let key = Aes128Key::with_form(&secret, form);
            let mut cipher = [0; 16];
            key.ctr(
                [0, 0, 0, 0x30, 0, 0, 0, 0],
                16,
                b"Single block msg",
                &mut cipher,
            );
            assert_eq!(
                cipher[..],
                hex("e4095d4fb7a7b3792d6175a3261311b8"),
                "{form}"
            );
        }
    }

    /// SP 800-38A F.5.1, whose counter no position in bytes reaches: by the kernels, which take a block's number.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vector_of_sp_800_38a() {
        let secret: [u8; 16] = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
        let plain = hex(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        for form in [Form::AesNi, Form::Vaes] {
            let Some(kernel) = crate::x86::Kernel::new(form, &secret) else {
                continue;
            };
            let mut cipher = vec![0; plain.len()];
            let iv = 0xf0f1_f2f3_f4f5_f6f7_u64.to_be_bytes();
            kernel.ctr(iv, 0xf8f9_fafb_fcfd_feff, &plain, &mut cipher);
            assert_eq!(
                cipher,
                hex(
                    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff\
                     5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
                ),
                "{form}"
            );
        }
    }

    /// The definition, block by block, through nothing but the block cipher.
    fn by_definition(iv: [u8; 8], position: u64, src: &[u8]) -> Vec<u8> {
        let pad = |at: u64| {
            let mut counter = [0; 16];
            counter[..8].copy_from_slice(&iv);
            counter[8..].copy_from_slice(&(at / 16).to_be_bytes());
            key().block(&counter)[usize::try_from(at % 16).unwrap()]
        };
        (position..)
            .zip(src)
            .map(|(at, byte)| byte ^ pad(at))
            .collect()
    }

    fn check(iv: [u8; 8], position: u64, src: &[u8]) {
        let portable = Aes128Key::with_form(&KEY, Form::Portable);
        let mut expected = vec![0; src.len()];
        portable.ctr(iv, position, src, &mut expected);
        for key in keys() {
            let mut dst = vec![0xa5; src.len()];
            key.ctr(iv, position, src, &mut dst);
            assert!(
                dst == expected,
                "{} bytes from {position} by {key:?}",
                src.len()
            );
        }
    }

    #[test]
    fn forms_agree_at_every_length() {
        let src = noise(4096);
        for len in 0..=src.len() {
            check(IV, 0, &src[..len]);
            check(IV, len as u64 * 7, &src[..len]);
        }
    }

    #[test]
    fn forms_agree_at_every_alignment() {
        let src = noise(700);
        for from in 0..64 {
            for position in 0..17 {
                check(IV, position, &src[from..]);
            }
        }
        let mut dst = vec![0; 700];
        let mut expected = vec![0; 600];
        Aes128Key::with_form(&KEY, Form::Portable).ctr(IV, 0, &src[..600], &mut expected);
        for key in keys() {
            for to in 0..64 {
                key.ctr(IV, 0, &src[..600], &mut dst[to..to + 600]);
                assert!(dst[to..to + 600] == expected, "at {to} by {key:?}");
            }
        }
    }

    #[test]
    fn the_counter_wraps_without_touching_the_iv() {
        // The block counter has 64 bits; a position in bytes reaches 2^60 blocks at most.
        for block in [(1 << 32) - 9, (1 << 59) + 5, (u64::MAX >> 4) - 9] {
            check([0xff; 8], block * 16 + 3, &noise(900));
        }
        #[cfg(target_arch = "x86_64")]
        for form in [Form::AesNi, Form::Vaes] {
            let Some(kernel) = crate::x86::Kernel::new(form, &KEY) else {
                continue;
            };
            let mut dst = [0; 400];
            kernel.ctr([0xff; 8], u64::MAX - 3, &[0; 400], &mut dst);
            let mut counter = [0xff; 16];
            counter[8..].copy_from_slice(&(u64::MAX).to_be_bytes());
            assert_eq!(dst[48..64], key().block(&counter), "{form}");
            counter[8..].fill(0);
            assert_eq!(dst[64..80], key().block(&counter), "{form}");
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            iv: [u8; 8],
            position in prop_oneof![0..600u64, (1u64 << 32) - 40..(1u64 << 32) + 40],
            src in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut dst = vec![0; src.len()];
            key().ctr(iv, position, &src, &mut dst);
            prop_assert_eq!(&dst, &by_definition(iv, position, &src));
            let mut back = vec![0; src.len()];
            key().ctr(iv, position, &dst, &mut back);
            prop_assert_eq!(back, src);
        }
    }
}
