//! Makes, wraps, leases, audits and destroys content keys.
//!
//! ```text
//!   caller -> capability -> budget -> local -> store (wrapped keys: SQLite, or PostgreSQL for several nodes)
//!                                       |  \--> seal  (AEAD)  <- unlock (the root)
//!                                       \-----> audit (hash-chained, on disk before a key leaves)
//! ```
//!
//! | file | what operators do with it |
//! |---|---|
//! | `rotation.rs` | new roots and KEKs while keys are served |
//! | `approval.rs`, `act.rs` | what needs two of them |
//! | `burial.rs`, `tombstone.rs` | destroying for good |
//! | `backup.rs`, `restore.rs` | a machine that is lost |
//! | `shared.rs` | several keystores over one store |
//! | `verify.rs`, `rollback.rs` | finding out what was changed or put back |
//! | `nodes.rs` | origins and licence servers on other machines |
//!
//! [`Local`] is a keystore in this process and the only place where the rules are; [`server`] puts it on two Unix
//! sockets; [`run()`] is the daemon. Callers link `keystore-client`, not this.
//!
//! # Keys
//! A root key wraps each tenant's versioned key-encrypting keys, and those wrap content keys, each with all that it
//! is for as associated data. Content keys are random and made on first need: none can be
//! computed from another, and one that is destroyed is gone. The root is kept under a passphrase or a key, by shares, a
//! token or a service ([`unlock`]), and lies in memory only while unsealed, in pages that are locked and left out of
//! core dumps.
//!
//! # Whom this trusts, and what a breach yields
//!
//! In full, with what is out of scope: `keystore/design/threat-model.md`.
//!
//! | who is taken over | gets | does not get |
//! |---|---|---|
//! | an origin | the keys of the assets that it is granted, each lease in the log | keys of other assets or tenants; any key while sealed; a say in who is asked for what |
//! | a licence server | the keys whose ids it knows, of assets that it is granted, each export in the log under an entitlement that it may have made up | a list of keys; other assets' keys; leases |
//! | an operator | destroys keys, rotates, backs up, seals, and unseals with what opens the root; reads records | a key: no administrative call returns one; what needs a second operator (`approval.rs`) |
//! | two operators | a tenant's KEKs, encrypted to whom they name; new shares of the root; what was destroyed, from an old backup, if they say so | doing so unrecorded |
//! | an auditor | reads the state and checks the log | anything else |
//! | an origin or licence server on another machine | as here, and what it was given is encrypted to its node key on the way | a list, a KEK, a key of what it was not granted; the alarm rises when it tries |
//! | another user of the host | nothing: the kernel says who a peer is | |
//! | whoever copies the disk or a backup | wrapped keys, names of assets, the log | a key, without what opens the root; of that only a passphrase can be guessed at, and each guess costs 64 MiB and its time |
//! | whoever writes to the disk | can destroy; a changed record does not open, one under a KEK below the floor is refused, a changed log is found out by `verify` | a key; a key under another context; an older state, unless store, log and tombstones are put back together |
//! | root on the host, or this process | everything that is unsealed | what is sealed |
//!
//! A caller that was given a key may keep it: sealing ends leases by asking. Where that matters, the asset gets a new
//! key generation.
#![deny(unsafe_code)]

mod act;
mod approval;
pub mod audit;
pub mod backup;
mod budget;
mod burial;
pub mod capability;
mod ceremony;
mod clock;
mod error;
mod exchange;
mod folder;
mod handle;
mod hardening;
mod keyring;
pub mod local;
mod memory;
pub mod nodes;
mod refusal;
mod restore;
mod rollback;
mod rotation;
pub mod run;
mod seal;
pub mod server;
mod shared;
pub mod store;
pub mod testing;
mod tombstone;
pub mod unlock;
mod unseal;
mod verify;

pub use clock::{Clock, SystemClock};
pub use error::{Error, ErrorKind};
pub use hardening::{WipingAllocator, harden_process, wipe_freed_memory};
pub use local::Local;
pub use run::run;
