use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 128-bit content key, wiped when dropped.
///
/// It lives on the heap, so that moving the value copies a pointer and leaves no bytes behind. It has no
/// `Clone`, no comparison and no serialisation; `Debug` shows no bytes.
#[derive(ZeroizeOnDrop)]
pub struct ContentKey(Box<[u8; 16]>);

impl ContentKey {
    /// Builds the key in place: `fill` writes the 16 bytes where they will stay.
    ///
    /// # Errors
    /// Whatever `fill` returns; what it had written is wiped.
    pub fn build<E>(fill: impl FnOnce(&mut [u8; 16]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new([0; 16]));
        fill(&mut key.0)?;
        Ok(key)
    }

    /// Takes the bytes out of `source` and wipes it.
    pub fn take(source: &mut [u8; 16]) -> Self {
        let mut key = Self(Box::new([0; 16]));
        key.0.copy_from_slice(source);
        source.zeroize();
        key
    }

    /// The key's bytes. Whoever calls this answers for every copy made of them.
    pub fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

/// The constant initialisation vector of a `cbcs` key (`default_constant_IV`, ISO/IEC 23001-7 8.2): 16 bytes,
/// public, and one per key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConstantIv([u8; 16]);

impl ConstantIv {
    /// The vector with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ConstantIv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_bytes() {
        let key = ContentKey::take(&mut [0xab; 16]);
        assert_eq!(format!("{key:?}"), "ContentKey(..)");
    }

    #[test]
    fn take_wipes_its_source() {
        let mut source = [7; 16];
        let key = ContentKey::take(&mut source);
        assert_eq!(source, [0; 16]);
        assert_eq!(key.expose(), &[7; 16]);
    }
}
