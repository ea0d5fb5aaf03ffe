//! How the root is obtained: each file is a way to the key that wraps it.

pub mod passphrase;
