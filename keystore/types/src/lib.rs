//! Values that every role shares: key ids, content keys, schemes, the context a key belongs to, and the
//! protection policy from which `tenc`, manifests and licences are all derived.
//!
//! Pure: nothing here does I/O, reads a clock or draws random numbers. A [`ContentKey`] is the only secret
//! and shows its bytes through [`ContentKey::expose`] alone.
#![forbid(unsafe_code)]

mod asset_id;
mod content_key;
mod context;
mod key_id;
mod policy;
mod scheme;

pub use asset_id::{AssetId, AssetIdError};
pub use content_key::{ConstantIv, ContentKey};
pub use context::{Generation, KeyContext, Label, SUBSAMPLE_RULE};
pub use key_id::{KeyId, KeyIdError};
pub use policy::{DrmSystem, HlsClearKeyFlavour, ProtectionPolicy};
pub use scheme::Scheme;
