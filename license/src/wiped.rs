use bytes::Bytes;
use zeroize::Zeroize as _;

/// A body that may hold keys: wiped when nobody else holds a part of its memory any more.
#[derive(Default)]
pub struct Wiped(Option<Bytes>);

impl Wiped {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl std::ops::Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Some(Ok(mut bytes)) = self.0.take().map(Bytes::try_into_mut) {
            bytes.as_mut().zeroize();
        }
    }
}
