//! Makes, wraps, leases, audits and destroys content keys.
//!
//! ```text
//!   caller -> capability -> local -> store (wrapped keys, SQLite)
//!                             |  \--> seal  (AEAD)  <- unlock (the root)
//!                             \-----> audit (hash-chained, on disk before a key leaves)
//! ```
//!
//! [`Local`] is a keystore in this process and the only place where the rules are; [`server`] puts it on two Unix
//! sockets; [`run()`] is the daemon. Callers link `keystore-client`, not this.
//!
//! # Keys
//! A root key wraps each tenant's versioned key-encrypting keys, and those wrap content keys, each with all that it
//! is for as associated data. Content keys are random and made on first need: none can be
//! computed from another, and one that is destroyed is gone. The root is kept under a passphrase, and lies in memory
//! only while unsealed, in pages that are locked and left out of core dumps.
//!
//! # Whom this trusts, and what a breach yields
//!
//! | who is taken over | gets | does not get |
//! |---|---|---|
//! | an origin | the keys of the assets that it is granted, each lease in the log | keys of other assets or tenants; any key while sealed; a say in who is asked for what |
//! | a licence server | the keys whose ids it knows, of assets that it is granted, each export in the log under an entitlement that it may have made up | a list of keys; other assets' keys; leases |
//! | an operator | destroys, seals, and unseals with the passphrase; reads records | a key: no administrative call returns one |
//! | an auditor | reads the state and checks the log | anything else |
//! | another user of the host | nothing: the kernel says who a peer is | |
//! | whoever copies the disk or a backup | wrapped keys, names of assets, the log | a key, without the passphrase, each guess at which costs 64 MiB and its time |
//! | whoever writes to the disk | can destroy, and roll back to an older state; a changed record does not open, a changed log is found out by `verify` down to the last anchor | a key; a key under another context |
//! | root on the host, or this process | everything that is unsealed | what is sealed |
//!
//! A caller that was given a key may keep it: sealing ends leases by asking. Where that matters, the asset gets a new
//! key generation.
#![deny(unsafe_code)]

mod act;
mod approval;
pub mod audit;
mod burial;
pub mod capability;
mod clock;
mod error;
mod folder;
mod hardening;
mod keyring;
pub mod local;
mod rollback;
mod rotation;
pub mod run;
mod seal;
pub mod server;
pub mod store;
pub mod testing;
mod tombstone;
pub mod unlock;
mod verify;

pub use clock::{Clock, SystemClock};
pub use error::{Error, ErrorKind};
pub use hardening::harden_process;
pub use local::Local;
pub use run::run;
