use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one size that are used again and again: fresh memory for each response costs more than the
/// encryption that fills it.
pub struct BufferPool {
    size: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

/// Buffers kept when idle. Those in flight are bounded by the requests in flight.
const KEPT: usize = 64;

impl BufferPool {
    /// A pool of buffers of `size` bytes.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            free: Mutex::default(),
        })
    }

    /// What each buffer holds, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// An empty buffer.
    pub fn take(self: &Arc<Self>) -> Buffer {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let bytes = free.unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Buffer {
            bytes,
            filled: 0,
            pool: Arc::clone(self),
        }
    }
}

/// A buffer on loan. It returns when the last of the bytes made from it are dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    pool: Arc<BufferPool>,
}

impl Buffer {
    /// How much more fits.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Adds `len` bytes, which the caller writes over. What stands in them is left from an earlier use.
    ///
    /// # Panics
    /// When there is no such room.
    pub fn extend(&mut self, len: usize) -> &mut [u8] {
        let begin = self.filled;
        self.filled += len;
        &mut self.bytes[begin..self.filled]
    }

    /// The content as shared bytes, without a copy unless it is little: a transport may hold it until its client has
    /// acknowledged it, and would hold the whole buffer for it.
    pub fn freeze(self) -> Bytes {
        if self.filled < self.bytes.len() / 8 {
            return Bytes::copy_from_slice(self.as_ref());
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_when_its_last_bytes_are_dropped() {
        let pool = BufferPool::new(20);
        let mut buffer = pool.take();
        buffer.extend(4).copy_from_slice(b"film");
        assert_eq!(buffer.room(), 16);
        let bytes = buffer.freeze();
        let address = bytes.as_ptr();
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(pool.free.lock().unwrap().is_empty());
        assert_eq!(part, "il");
        drop(part);
        let mut again = pool.take();
        assert!(again.is_empty());
        assert_eq!(again.extend(1).as_ptr(), address, "the same memory");
    }

    #[test]
    fn a_few_bytes_hold_no_buffer() {
        let pool = BufferPool::new(100);
        let mut buffer = pool.take();
        buffer.extend(4).copy_from_slice(b"film");
        let bytes = buffer.freeze();
        assert_eq!(pool.free.lock().unwrap().len(), 1);
        assert_eq!(bytes, "film");
    }
}
