//! W3C ClearKey: no payload at all, only the licence URL and the key id.

use super::SystemId;

/// The system's UUID in an MPD. There is no `pssh` beside it: with the common one in the MPD, dash.js hands it to
/// the browser as `keyids` and playback never starts.
pub const SYSTEM: SystemId = SystemId::new(0xe271_9d58_a985_b3c9_781a_b030_af78_d30e);

/// `value` of the `ContentProtection` element (DASH-IF IOP).
pub(crate) const NAME: &str = "ClearKey1.0";

/// The HLS `KEYFORMAT` that hls.js takes.
pub const KEY_FORMAT: &str = "org.w3.clearkey";

/// The HLS `KEYFORMAT` whose URI answers with the 16 raw bytes (RFC 8216 4.3.2.4), which shaka-player takes.
pub const IDENTITY_KEY_FORMAT: &str = "identity";
