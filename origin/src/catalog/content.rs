//! Reading a source in full: the digest that tells two contents of one identity apart.

use ring::digest::{Context, SHA256};

use super::ContentDigest;
use crate::storage::{Fault, LocalFile, Source as _};

/// Bytes of one read: large enough for a disk's own pace, small enough to be of no account in memory.
const PIECE: u64 = 1 << 20;

/// SHA-256 of everything in `file`, which must hold still meanwhile. Blocks: meant for the blocking pool.
///
/// # Errors
/// A [`Fault`], also when the file was changed while it was read.
pub(super) fn digest(file: &LocalFile) -> Result<ContentDigest, Fault> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; usize::try_from(PIECE.min(file.len())).unwrap_or_default()];
    let mut position = 0;
    while position < file.len() {
        let end = file.len().min(position + PIECE);
        let piece = &mut buffer[..usize::try_from(end - position).unwrap_or_default()];
        file.read_now(position..end, piece)?;
        context.update(piece);
        position = end;
    }
    file.unchanged()?;
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}
