//! A keystore in memory, for the tests of other packages: the same rules, checks and audit records as any other,
//! over a database and a log that no disk holds, and a passphrase that is quick to try.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conf::{
    AdminSettings, Argon2Settings, AuditSettings, BudgetSettings, CallerRight, CallerSettings,
    Drain, KeystoreSettings,
};
use keystore_client::Keystore;
use keystore_client::admin::Admin;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::capability::Caller;
use crate::clock::SystemClock;
use crate::error::Error;
use crate::local::{DATABASE, Files, Local};
use crate::store::sqlite::Sqlite;

/// The passphrase of [`unsealed`].
pub const PASSPHRASE: &str = "open for tests";

/// Settings with the callers `origin` (may lease) and `license` (may export), both for all assets of tenant
/// `default` and in-process only, and with the cheapest Argon2id. The paths lie in `folder`.
pub fn settings(folder: &Path) -> KeystoreSettings {
    let caller = |right| CallerSettings {
        user: None,
        may: vec![right],
        assets: vec!["*".to_owned()],
    };
    KeystoreSettings {
        state_dir: folder.join("state"),
        socket: folder.join("keystore.sock"),
        control_socket: folder.join("control.sock"),
        callers: BTreeMap::from([
            ("license".to_owned(), caller(CallerRight::Export)),
            ("origin".to_owned(), caller(CallerRight::Lease)),
        ]),
        tenant: "default".to_owned(),
        lease_term: Duration::from_secs(3600),
        passphrase: None,
        key: None,
        pkcs11: None,
        transit: None,
        init_at_start: false,
        share_patience: Duration::from_secs(900),
        argon2: Argon2Settings {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        },
        audit: AuditSettings {
            capacity: 64 << 20,
            reserve: 1 << 20,
        },
        budget: BudgetSettings {
            uses: u32::MAX,
            keys: u32::MAX,
            denials: u32::MAX,
        },
        partners: vec![],
        postgres: None,
        require_locked_memory: false,
        tombstone_file: None,
        external_assets: vec![],
        approval_term: Duration::from_secs(3600),
        admin: AdminSettings {
            address: None,
            hosts: Vec::new(),
        },
        listener: None,
        nodes: BTreeMap::new(),
        drain: Drain {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(5),
        },
    }
}

/// A keystore in memory that waits for `init`.
///
/// # Errors
/// When there is no memory.
pub async fn uninitialised() -> Result<Local, Error> {
    let file = |name| {
        (memfd_create(name, MemfdFlags::CLOEXEC).map(File::from))
            .map_err(|error| Error::unavailable("cannot make a file in memory", error))
    };
    let files = Files {
        log: file("audit.log")?,
        tombstones: file("tombstones.log")?,
        folder: None,
    };
    let store = Box::new(Sqlite::in_memory().await?);
    let settings = settings(Path::new("/nonexistent"));
    Local::assemble(store, files, &settings, Arc::new(SystemClock)).await
}

/// A keystore in memory, initialised under [`PASSPHRASE`] and unsealed.
///
/// # Errors
/// When there is no memory.
pub async fn unsealed() -> Result<Local, Error> {
    let local = uninitialised().await?;
    operator(&local)
        .init(PASSPHRASE.into())
        .await
        .map_err(|error| Error::unavailable("cannot make a root", error))?;
    Ok(local)
}

/// What the origin holds: it may lease every key of tenant `default`.
pub fn origin(local: &Local) -> Arc<dyn Keystore> {
    local.handle(configured("origin"))
}

/// What the licence server holds: it may export every key of tenant `default`.
pub fn license(local: &Local) -> Arc<dyn Keystore> {
    local.handle(configured("license"))
}

/// What an operator holds.
pub fn operator(local: &Local) -> Arc<dyn Admin> {
    local.admin(Caller::operator("operator"))
}

fn configured(name: &str) -> Caller {
    let settings = settings(Path::new("/nonexistent"));
    Caller::configured(&settings, name).unwrap_or_else(|| Caller::new(name, vec![]))
}

/// Copies the database of one state folder over that of another, once neither is open any more in this process: what a
/// dropped store holds open is closed by threads of its own.
///
/// # Errors
/// Those of the file system; timed out where one stays open.
pub async fn copy_store(from: &Path, to: &Path) -> io::Result<()> {
    let closed = async {
        while is_open(from)? || is_open(to)? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, io::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await??;
    fs::create_dir_all(to)?;
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("{DATABASE}{suffix}");
        let (from, to) = (from.join(&name), to.join(&name));
        if to.exists() {
            fs::remove_file(&to)?;
        }
        if from.exists() {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

/// Whether this process has the database of a state folder open.
fn is_open(folder: &Path) -> io::Result<bool> {
    let database = folder.join(DATABASE).into_os_string().into_encoded_bytes();
    for file in fs::read_dir("/proc/self/fd")? {
        // One that was closed meanwhile has no name any more.
        let Ok(path) = fs::read_link(file?.path()) else {
            continue;
        };
        if path.as_os_str().as_encoded_bytes().starts_with(&database) {
            return Ok(true);
        }
    }
    Ok(false)
}
