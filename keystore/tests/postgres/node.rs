//! A keystore of several, and what the tests of several ask of it.

#![allow(dead_code, reason = "each test uses its part of this")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conf::{PostgresHost, PostgresSettings};
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Admin, AdminError, RotatedRoot};
use keystore_client::{
    EntitlementRef, Error, ExportRequest, Keystore, Lease, LeaseRequest, LeasedKey, SealState,
};
use keystore_types::{Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tempfile::TempDir;

pub const PASSPHRASE: &str = "correct horse";

/// How long anything may take to come about on the slowest machine before a test says that it did not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A keystore of several.
pub struct Node {
    pub local: Local,
    pub origin: Arc<dyn Keystore>,
    pub license: Arc<dyn Keystore>,
    pub operator: Arc<dyn Admin>,
    pub folder: TempDir,
}

impl Node {
    /// Not unsealed.
    pub async fn open(postgres: PostgresSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = testing::settings(folder.path());
        settings.postgres = Some(postgres);
        let local = Local::open(&settings, Arc::new(SystemClock)).await.unwrap();
        Self {
            origin: testing::origin(&local),
            license: testing::license(&local),
            operator: testing::operator(&local),
            local,
            folder,
        }
    }

    pub async fn unseal(&self) {
        (self.operator.unseal(PASSPHRASE.into()).await).unwrap();
    }

    pub async fn lease(&self, numbers: Range<u32>) -> Result<Vec<LeasedKey>, Error> {
        let contexts = numbers.map(context).collect();
        let leased = self.origin.lease(LeaseRequest { contexts }).await;
        leased.map(|Lease { keys, .. }| keys)
    }

    pub async fn export(&self, key_ids: Vec<KeyId>) -> Result<usize, Error> {
        let request = ExportRequest {
            asset: "film".parse().unwrap(),
            key_ids,
            entitlement: EntitlementRef {
                issuer: "tests".to_owned(),
                subject: None,
                token_id: None,
                system: "clearkey".to_owned(),
            },
        };
        self.license.export(request).await.map(|keys| keys.len())
    }

    pub async fn rotate_root(&self) -> Result<u32, AdminError> {
        match (self
            .operator
            .rotate_root(None, Some(PASSPHRASE.into()), None))
        .await?
        {
            RotatedRoot::Version(version) => Ok(version),
            RotatedRoot::Waits(_) | RotatedRoot::Dealing(_) => panic!("it is kept by a passphrase"),
        }
    }

    pub async fn in_order(&self) {
        let report = soon(async || self.operator.verify(None).await.ok()).await;
        assert_eq!(report.faults, vec![]);
        assert_eq!(report.unwrapped, report.keys);
    }

    /// How many keys this node says that it made.
    pub fn made(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("state/audit.log")).unwrap();
        (log.lines())
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter_map(|record| record["made"].as_array().map(Vec::len))
            .sum()
    }

    pub fn records(&self) -> usize {
        let log = std::fs::read(self.folder.path().join("state/audit.log")).unwrap();
        log.iter().filter(|byte| **byte == b'\n').count()
    }

    pub async fn wait_for(&self, wanted: SealState) {
        let mut state = self.local.seal_state();
        let changed = state.wait_for(|state| *state == wanted);
        in_time(changed).await.unwrap();
    }
}

pub fn context(number: u32) -> KeyContext {
    KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number,
        },
    }
}

pub fn same(one: &[LeasedKey], other: &[LeasedKey]) -> bool {
    let known = |key: &LeasedKey| (key.key_id, *key.key.expose());
    one.iter().map(known).eq(other.iter().map(known))
}

pub fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Unsealed nodes over a new database.
pub async fn nodes<const N: usize>(settings: &PostgresSettings) -> [Node; N] {
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(Node::open(settings.clone()).await);
    }
    (nodes[0].operator.init(PASSPHRASE.into()).await).unwrap();
    for node in &nodes[1..] {
        node.unseal().await;
    }
    // What is remembered is forgotten at the look that finds the new root.
    looked(settings, N).await;
    let Ok(nodes) = nodes.try_into() else {
        panic!("there are {N}")
    };
    nodes
}

/// What comes of it, which has to be within [`PATIENCE`].
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.expect("it ends in time")
}

/// Waits until so many nodes have taken notice of what was in the database when this was called.
///
/// A node looks, writes when it looked, and then takes notice: of the looks that are written after the call, the first may
/// have been under way before, and when the third is written the second is over.
pub async fn looked(settings: &PostgresSettings, nodes: usize) {
    let nodes = i64::try_from(nodes).unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .username(&settings.user)
        .database(&settings.database)
        .options([("search_path", "keystore")]);
    let options = match &settings.host {
        PostgresHost::Socket(folder) => options.socket(folder).ssl_mode(PgSslMode::Disable),
        PostgresHost::Tcp { host, port } => {
            let options = options.host(host).port(*port);
            options.ssl_mode(PgSslMode::Require)
        }
    };
    let mut connection = options.connect().await.unwrap();
    for _ in 0..3 {
        let now: String = sqlx::query_scalar("SELECT clock_timestamp()::text")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        soon(async || {
            let later: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM node WHERE seen > $1::timestamptz")
                    .bind(&now)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
            (later >= nodes).then_some(())
        })
        .await;
    }
}

/// Tries until it succeeds: nodes look at the database every second.
pub async fn soon<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "it takes long");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
