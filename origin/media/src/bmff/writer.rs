//! Boxes are written into one growing buffer; a box's size is put in when its body is done, so that no encoder
//! reckons the size of another.

/// Writes boxes one after the other (ISO/IEC 14496-12 4.2). Integers are big-endian.
#[derive(Default)]
pub(crate) struct BoxWriter {
    bytes: Vec<u8>,
}

impl BoxWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What was written so far.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written so far.
    pub(crate) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// A box of type `name` around whatever `body` writes.
    ///
    /// Headers never come near the 4 GiB of the 32-bit size: the one box that could is `mdat`, whose header is
    /// [`BoxWriter::header_of`].
    pub(crate) fn boxed(&mut self, name: &[u8; 4], body: impl FnOnce(&mut Self)) {
        let begin = self.position();
        self.u32(0);
        self.raw(name);
        body(self);
        let size =
            u32::try_from(self.position() - begin).expect("headers are bounded far below 4 GiB");
        self.put_u32(begin, size);
    }

    /// A `FullBox` of type `name`: `version` and 24 bits of `flags`, then whatever `body` writes.
    pub(crate) fn full(
        &mut self,
        name: &[u8; 4],
        version: u8,
        flags: u32,
        body: impl FnOnce(&mut Self),
    ) {
        debug_assert!(flags < 1 << 24);
        self.boxed(name, |w| {
            w.u32(u32::from(version) << 24 | flags);
            body(w);
        });
    }

    /// The header alone of a box whose body of `body_len` bytes is not written here.
    pub(crate) fn header_of(&mut self, name: &[u8; 4], body_len: u64) {
        match u32::try_from(body_len + 8) {
            Ok(size) => {
                self.u32(size);
                self.raw(name);
            }
            Err(_) => {
                self.u32(1);
                self.raw(name);
                self.u64(body_len + 16);
            }
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// Overwrites four bytes at `at`, for a field that is known only later.
    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_include_nested_boxes() {
        let mut writer = BoxWriter::new();
        writer.boxed(b"edts", |w| w.full(b"elst", 1, 2, |w| w.u16(7)));
        assert_eq!(
            writer.into_bytes(),
            b"\0\0\0\x16edts\0\0\0\x0eelst\x01\0\0\x02\0\x07"
        );
    }

    #[test]
    fn mdat_grows_a_64_bit_size_only_when_it_must() {
        let mut writer = BoxWriter::new();
        writer.header_of(b"mdat", 0xffff_ffff - 8);
        assert_eq!(writer.into_bytes(), b"\xff\xff\xff\xffmdat");
        let mut writer = BoxWriter::new();
        writer.header_of(b"mdat", 0xffff_ffff - 7);
        assert_eq!(writer.into_bytes(), b"\0\0\0\x01mdat\0\0\0\x01\0\0\0\x08");
    }
}
