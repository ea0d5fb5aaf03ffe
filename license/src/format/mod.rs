//! Bytes of players to a [`crate::policy::Challenge`], and a [`crate::issue::License`] to bytes.

pub mod clearkey;
pub mod fairplay;
pub mod hls_key;
pub mod playready;
pub mod widevine;

use zeroize::Zeroizing;

/// A reply that holds keys, wiped when dropped.
///
/// Reserved at its full length at once: a vector that grows leaves unwiped copies behind.
pub type SecretBytes = Zeroizing<Vec<u8>>;
