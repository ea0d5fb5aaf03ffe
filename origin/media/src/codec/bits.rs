//! A reader of bits, most significant first.

/// The bits ended, or a value was out of its range: the caller knows in what and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitsError(pub(crate) &'static str);

pub(crate) const ENDED: BitsError = BitsError("the bits end too early");

/// Reads bits from bytes, most significant first.
///
/// With [`BitReader::of_nal`] the bytes are those of a NAL unit: `emulation_prevention_three_byte`s are
/// skipped as ITU-T H.264 7.3.1 says, and [`BitReader::bytes_consumed`] counts them, since it is bytes of
/// the stored sample that are clear or protected.
#[derive(Clone, Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The byte that holds the next bit.
    at: usize,
    /// Bits of that byte already read, 0..8.
    used: u8,
    /// Zero bytes just before `at`.
    zeros: u8,
    /// Emulation prevention bytes skipped so far; `None` where there are none to skip.
    escapes: Option<usize>,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            used: 0,
            zeros: 0,
            escapes: None,
        }
    }

    pub(crate) fn of_nal(nal: &'a [u8]) -> Self {
        Self {
            escapes: Some(0),
            ..Self::new(nal)
        }
    }

    pub(crate) fn bit(&mut self) -> Result<bool, BitsError> {
        if let Some(escapes) = &mut self.escapes
            && (self.used, self.bytes.get(self.at)) == (0, Some(&3))
            && self.zeros >= 2
        {
            *escapes += 1;
            self.at += 1;
            self.zeros = 0;
        }
        let byte = *self.bytes.get(self.at).ok_or(ENDED)?;
        let bit = byte >> (7 - self.used) & 1 == 1;
        self.used += 1;
        if self.used == 8 {
            self.used = 0;
            self.at += 1;
            self.zeros = if byte == 0 {
                self.zeros.saturating_add(1)
            } else {
                0
            };
        }
        Ok(bit)
    }

    /// `u(n)`: the next `count` bits, at most 32.
    pub(crate) fn bits(&mut self, count: u32) -> Result<u32, BitsError> {
        debug_assert!(count <= 32);
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Ok(value)
    }

    /// `u(n)` of at most 8 bits.
    pub(crate) fn byte(&mut self, count: u32) -> Result<u8, BitsError> {
        debug_assert!(count <= 8);
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u8::from(self.bit()?);
        }
        Ok(value)
    }

    pub(crate) fn skip(&mut self, count: u32) -> Result<(), BitsError> {
        for _ in 0..count {
            self.bit()?;
        }
        Ok(())
    }

    /// `ue(v)`: an unsigned Exp-Golomb code (ITU-T H.264 9.1).
    pub(crate) fn unsigned(&mut self) -> Result<u32, BitsError> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return Err(BitsError("an Exp-Golomb code is longer than 32 bits"));
            }
        }
        // 2^zeros - 1 + the next `zeros` bits: at most 2^32 - 2.
        let base = (1_u32 << zeros) - 1;
        Ok(base + self.bits(zeros)?)
    }

    /// `se(v)`: a signed Exp-Golomb code (ITU-T H.264 9.1.1).
    pub(crate) fn signed(&mut self) -> Result<i32, BitsError> {
        let code = i64::from(self.unsigned()?);
        let magnitude = (code + 1) / 2;
        let value = if code % 2 == 1 { magnitude } else { -magnitude };
        i32::try_from(value).map_err(|_| BitsError("a signed Exp-Golomb code is out of range"))
    }

    /// `ue(v)` that must not pass `limit`.
    pub(crate) fn unsigned_to(&mut self, limit: u32, what: &'static str) -> Result<u32, BitsError> {
        let value = self.unsigned()?;
        if value > limit {
            Err(BitsError(what))
        } else {
            Ok(value)
        }
    }

    /// Bits read, those of escapes not among them.
    pub(crate) fn bits_consumed(&self) -> usize {
        8 * (self.at - self.escapes.unwrap_or(0)) + usize::from(self.used)
    }

    /// Bytes of the stored form of which at least one bit was read, escapes among them included.
    pub(crate) fn bytes_consumed(&self) -> usize {
        self.at + usize::from(self.used > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_of_table_9_2() {
        // 1 010 011 00100 00101 00110 00111 0001000
        let mut bits = BitReader::new(&[
            0b1010_0110,
            0b0100_0010,
            0b1001_1000,
            0b1110_0010,
            0b0000_0000,
        ]);
        let codes: Vec<u32> = (0..8).map(|_| bits.unsigned().unwrap()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn signed_codes_alternate() {
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let codes: Vec<i32> = (0..5).map(|_| bits.signed().unwrap()).collect();
        assert_eq!(codes, [0, 1, -1, 2, -2]);
    }

    #[test]
    fn the_longest_code_is_32_bits() {
        // 31 zeros, a one, 31 ones.
        let mut bits = BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(bits.unsigned().unwrap(), u32::MAX - 1);
        assert!(
            BitReader::new(&[0, 0, 0, 0, 0xff, 0, 0, 0, 0])
                .unsigned()
                .is_err()
        );
    }

    #[test]
    fn escapes_are_skipped_and_counted() {
        let nal = [0, 0, 3, 1, 0, 0, 3];
        let mut bits = BitReader::of_nal(&nal);
        assert_eq!(bits.bits(24).unwrap(), 1);
        assert_eq!(bits.bytes_consumed(), 4);
        assert_eq!(bits.bits(16).unwrap(), 0);
        assert_eq!(bits.bytes_consumed(), 6);
        assert_eq!(bits.bit(), Err(ENDED));
    }

    #[test]
    fn three_is_an_escape_after_two_zeros_only() {
        let mut bits = BitReader::of_nal(&[0, 3, 0, 0, 3, 3]);
        assert_eq!(bits.bits(32).unwrap(), 0x0003_0000);
        assert_eq!(bits.bits(8).unwrap(), 3);
    }
}
