//! A keystore that is killed at any write, sync, rename or truncation loses nothing that it acknowledged and leaves
//! nothing half-done.
//!
//! A child process makes, exchanges, rotates, destroys or restores keys under `strace`, which kills it at the n-th call of one kind on one file, for n = 1, 2, ...
//! until it comes through unharmed (in long work not at every one); then the folder that it left is opened and looked through. The kernel lives on, so this
//! cannot show what a power cut does to writes that were not synced; that syncs come in the right order is
//! argued in `local.rs`.

#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keystore::capability::{Assets, Caller, Capability, Grant};
use keystore::{Local, SystemClock, testing};
use keystore_client::admin::{Act, Acted, Admin, KeyFilter};
use keystore_client::exchange::{
    AskedKey, DepositRequest, DepositedHead, DepositedKey, ExchangeRequest, HandOverRequest,
    KeyUsage, Partner,
};
use keystore_client::{
    EntitlementRef, ExportRequest, Keystore, Lease, LeaseRequest, LeasedKey, SealState,
};
use keystore_types::{
    ConstantIv, ContentKey, Generation, KeyContext, KeyId, Label, SUBSAMPLE_RULE, Scheme,
};
use ring::digest::{SHA256, digest};

/// Where the child finds its state; unset, it is not a child.
const FOLDER: &str = "CASTELLUM_CRASH_FOLDER";

/// What the child does: a [`Work`].
const WORK: &str = "CASTELLUM_CRASH_WORK";

const PASSPHRASE: &str = "correct horse";

/// Where the lines of a backup lie, for [`Work::Restore`].
const LINES: &str = "lines";

/// Assets for which the child leases keys, one after another; each makes two keys.
const ASSETS: u32 = 3;

/// What [`Exchanging::all`] says: two keys asked for, two brought, all four handed over, two leased, four exported.
const EXCHANGED: usize = 14;

/// What the kernel is asked that changes files.
const CALLS: [&str; 7] = [
    "pwrite64",
    "fdatasync",
    "fsync",
    "ftruncate",
    "unlink,unlinkat",
    "rename,renameat,renameat2",
    "link,linkat",
];

/// The files of a keystore, and the folder itself, which is synced when files are made. Each call on each is a sweep of
/// its own, since strace counts them apart, and for each thread.
const FILES: [&str; 7] = [
    "state/audit.log",
    "state/audit.log.new",
    "state/tombstones.log",
    "state/keystore.sqlite",
    "state/keystore.sqlite-wal",
    "state/keystore.sqlite-journal",
    "state",
];

/// Sweeps that cannot be empty: three leases write these.
const ALWAYS: [(&str, &str); 4] = [
    ("state/audit.log", "pwrite64"),
    ("state/audit.log", "fdatasync"),
    ("state/keystore.sqlite-wal", "pwrite64"),
    ("state/keystore.sqlite-wal", "fsync"),
];

/// No sweep goes further: did it, the child would write without end.
const MOST_KILLS: u32 = 2000;

/// What the child does, and how many of its calls are kills.
#[derive(Clone, Copy)]
enum Work {
    /// Makes keys. It is killed at every call.
    Keys,
    /// Makes keys that an encryptor asks for, takes some that are brought, hands them over, leases and exports them. It
    /// is killed at every call.
    Exchange,
    /// Makes keys, then rotates. That repeats itself: after [`STRIDE`] calls it is killed at every second one, after
    /// twice as many at every third, and so on.
    Rotation,
    /// Destroys a key and a tenant and sets the log aside. It is killed at every call.
    Acts,
    /// Puts a backup back, then makes keys. It is killed at every call.
    Restore,
}

/// See [`Work::Rotation`].
const STRIDE: u32 = 4;

impl Work {
    fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Exchange => "exchange",
            Self::Rotation => "rotation",
            Self::Acts => "acts",
            Self::Restore => "restore",
        }
    }

    fn after(self, nth: u32) -> u32 {
        match self {
            Self::Keys | Self::Exchange | Self::Acts | Self::Restore => nth + 1,
            Self::Rotation => nth + 1 + nth / STRIDE,
        }
    }

    /// How many keys a child that comes through says that it was given, or rid of.
    fn keys(self) -> usize {
        match self {
            Self::Exchange => EXCHANGED,
            Self::Keys | Self::Rotation | Self::Acts | Self::Restore => 2 * ASSETS as usize,
        }
    }
}

#[test]
fn killed_at_any_point_of_a_key_creation() {
    sweep(Work::Keys, |folder| {
        block_on(async {
            let local = open(folder).await;
            let operator = local.admin(Caller::operator("operator"));
            operator.init(PASSPHRASE.into()).await.unwrap();
        });
    });
}

#[test]
fn killed_at_any_point_of_a_key_exchange() {
    sweep(Work::Exchange, |folder| {
        block_on(async {
            let local = open(folder).await;
            let operator = local.admin(Caller::operator("operator"));
            operator.init(PASSPHRASE.into()).await.unwrap();
        });
    });
}

#[test]
fn killed_at_any_point_of_the_first_start() {
    sweep(Work::Keys, |_| {});
}

#[test]
fn versioning_killed_at_any_point_of_a_rotation() {
    sweep(Work::Rotation, |folder| {
        block_on(async {
            let local = open(folder).await;
            let operator = local.admin(Caller::operator("operator"));
            operator.init(PASSPHRASE.into()).await.unwrap();
            // More than are wrapped anew at once.
            for number in 0..2 {
                lease_series(&local, number, 64).await;
            }
        });
    });
}

#[test]
fn killed_at_any_point_of_destroying_and_setting_aside() {
    sweep(Work::Acts, |folder| {
        block_on(async {
            let local = open(folder).await;
            let operator = local.admin(Caller::operator("operator"));
            operator.init(PASSPHRASE.into()).await.unwrap();
            lease_series(&local, 0, 2).await;
        });
    });
}

#[test]
fn killed_at_any_point_of_a_restore() {
    sweep(Work::Restore, |folder| {
        block_on(async {
            let lost = tempfile::tempdir().unwrap();
            let local = open(lost.path()).await;
            let operator = local.admin(Caller::operator("operator"));
            operator.init(PASSPHRASE.into()).await.unwrap();
            for number in 0..ASSETS {
                lease(&local, number).await;
            }
            let identity = age::x25519::Identity::generate();
            let recipients = vec![identity.to_public().to_string()];
            let id = operator.backup(recipients).await.unwrap();
            let mut file = Vec::new();
            while let Some(chunk) = operator.backup_chunk(id.clone()).await.unwrap() {
                file.extend_from_slice(&chunk);
            }
            let lines = age::decrypt(&identity, &file).unwrap();
            std::fs::write(folder.join(LINES), lines).unwrap();
        });
    });
}

/// Puts the backup back whose lines lie in the folder.
async fn restore(local: &Local, folder: &Path) {
    let lines = std::fs::read_to_string(folder.join(LINES)).unwrap();
    let end = lines.lines().last().unwrap();
    let end: serde_json::Value = serde_json::from_str(end).unwrap();
    let act = Act::Restore {
        backup: end["end"]["sha256"].as_str().unwrap().to_owned(),
        without_tombstones: true,
    };
    agreed(local, act).await;
    let operator = local.admin(Caller::operator("operator"));
    assert!(operator.restore(lines).await.unwrap().is_some());
}

/// Kills the child at each point; `prepare` makes what it finds.
fn sweep(work: Work, prepare: impl Fn(&Path)) {
    if !strace_works() {
        eprintln!("skipped: strace is missing, or may not trace");
        return;
    }
    let prepared = tempfile::tempdir().unwrap();
    prepare(prepared.path());
    for (file, call) in FILES
        .into_iter()
        .flat_map(|file| CALLS.map(|call| (file, call)))
    {
        let mut kills = 0;
        let mut nth = 1;
        loop {
            let folder = tempfile::tempdir().unwrap();
            copy(prepared.path(), folder.path());
            let (killed, acknowledged) = run_child(folder.path(), work, file, call, nth);
            check(
                folder.path(),
                work,
                &acknowledged,
                &format!("{call} {nth} on {file}"),
            );
            if !killed {
                assert_eq!(acknowledged.keys.len(), work.keys());
                break;
            }
            kills += 1;
            nth = work.after(nth);
            assert!(nth < MOST_KILLS, "{call} on {file} without end");
        }
        if kills > 0 {
            eprintln!("killed at each of {kills} {call} on {file}");
        }
        let must = ALWAYS.contains(&(file, call));
        assert!(
            kills > 0 || !must,
            "no {call} on {file}: the sweep tests nothing"
        );
    }
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        match file.file_type().unwrap().is_dir() {
            true => copy(&file.path(), &to),
            false => drop(std::fs::copy(file.path(), to).unwrap()),
        }
    }
}

fn strace_works() -> bool {
    let strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "inject=fsync:signal=KILL:when=1",
            "true",
        ])
        .stderr(Stdio::null())
        .status();
    strace.is_ok_and(|status| status.success())
}

/// What the child said.
struct Said {
    /// Each key that it was given, or rid of.
    keys: Vec<Given>,
    /// The ids of keys that it was told are destroyed.
    gone: Vec<String>,
}

/// A key that passed the keystore's door.
#[derive(Debug)]
struct Given {
    /// The operation, as the log names it.
    op: String,
    id: String,
    digest: String,
}

impl Given {
    fn line(op: &str, id: KeyId, key: &ContentKey) -> String {
        format!("KEY {op} {id} {} .", sha256(key))
    }

    fn heard(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        Some(Self {
            op: words.next()?,
            id: words.next()?,
            digest: words.next()?,
        })
    }
}

/// Runs the child until it is killed or done. Returns whether it was killed, and what it said by then.
fn run_child(folder: &Path, work: Work, file: &str, call: &str, nth: u32) -> (bool, Said) {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(folder.join(file))
        .args(["-e", &format!("trace={call}"), "-e"])
        .arg(format!("inject={call}:signal=KILL:when={nth}"))
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, folder)
        .env(WORK, work.as_str())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // A last line that was cut short was not said.
    let lines = said.lines().filter_map(|line| line.strip_suffix(" ."));
    let keys = lines
        .clone()
        .filter_map(|line| Given::heard(line.strip_prefix("KEY ")?))
        .collect();
    let gone = lines.filter_map(|line| line.strip_prefix("GONE "));
    let acknowledged = Said {
        keys,
        gone: gone.map(str::to_owned).collect(),
    };
    let done = output.status.success();
    assert!(
        done || !said.contains("panicked"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (!done, acknowledged)
}

/// Not a test: what runs under strace.
#[test]
#[ignore = "run by the tests of this file"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    block_on(async {
        let local = open(Path::new(&folder)).await;
        let operator = local.admin(Caller::operator("operator"));
        let work = std::env::var(WORK).unwrap();
        if work == Work::Restore.as_str() {
            restore(&local, Path::new(&folder)).await;
        }
        let state = *local.seal_state().borrow();
        match state {
            SealState::Uninitialised => operator.init(PASSPHRASE.into()).await.unwrap(),
            SealState::Sealed | SealState::Unsealed | SealState::Unreachable => {
                operator.unseal(PASSPHRASE.into()).await.unwrap();
            }
        }
        println!();
        if work == Work::Exchange.as_str() {
            let say = |op: &str, id, key: &ContentKey| println!("{}", Given::line(op, id, key));
            Exchanging::new(&local).all(say).await;
            return;
        }
        for number in 0..ASSETS {
            for leased in lease(&local, number).await.keys {
                println!("{}", Given::line("lease", leased.key_id, &leased.key));
            }
        }
        if work == Work::Rotation.as_str() {
            operator.rotate_keks(None).await.unwrap();
            operator
                .rotate_root(None, Some(PASSPHRASE.into()), None)
                .await
                .unwrap();
            rewrapped(&local).await;
        }
        if work == Work::Acts.as_str() {
            let series = series(&operator).await;
            operator.key_destroy(series[0]).await.unwrap();
            println!("GONE {} .", series[0]);
            agreed(&local, Act::SetAsideLog {}).await;
            operator.key_destroy(series[1]).await.unwrap();
            println!("GONE {} .", series[1]);
        }
    });
}

/// The ids of what [`lease_series`] has made.
async fn series(operator: &Arc<dyn Admin>) -> Vec<KeyId> {
    let filter = KeyFilter {
        asset: Some("series".parse().unwrap()),
        ..KeyFilter::default()
    };
    let listed = operator.key_list(filter).await.unwrap().keys;
    listed.iter().map(|record| record.key_id).collect()
}

/// Does what needs two operators.
async fn agreed(local: &Local, act: Act) {
    let [one, other] = ["anna", "berta"].map(|name| local.admin(Caller::operator(name)));
    let Acted::Waits(approval) = one.act(act.clone()).await.unwrap() else {
        panic!("done by one operator alone");
    };
    other.approve(approval.id).await.unwrap();
    let done = one.act(act).await.unwrap();
    assert!(matches!(done, Acted::Done(_)), "{done:?}");
}

/// Waits until all keys are wrapped anew and the floor is raised.
async fn rewrapped(local: &Local) {
    let operator = local.admin(Caller::operator("operator"));
    let done = async {
        while operator.status().await.unwrap().stored.unwrap().rotating {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    (tokio::time::timeout(Duration::from_secs(60), done).await).expect("it ends in time");
}

/// Opens what the child left and looks through it.
fn check(folder: &Path, work: Work, acknowledged: &Said, killed_at: &str) {
    block_on(async {
        let local = open(folder).await;
        let operator = local.admin(Caller::operator("operator"));
        let state = *local.seal_state().borrow();
        if state == SealState::Uninitialised {
            assert!(
                acknowledged.keys.is_empty(),
                "{killed_at}: the root is gone"
            );
            operator.init(PASSPHRASE.into()).await.unwrap();
        } else {
            operator.unseal(PASSPHRASE.into()).await.unwrap();
        }
        rewrapped(&local).await;
        // Whole: every row opens, the chain holds, and each request's two keys are there or neither.
        let report = operator.verify(None).await.unwrap();
        assert_eq!(report.faults, vec![], "{killed_at}");
        let destroyed = operator.status().await.unwrap().stored.unwrap().destroyed;
        assert_eq!(report.unwrapped + destroyed, report.keys, "{killed_at}");
        assert_eq!(report.keys % 2, 0, "{killed_at}: a request was half kept");
        // Recorded: each acknowledged key stands in the log.
        let mut log = String::new();
        for file in std::fs::read_dir(folder.join("state")).unwrap() {
            let path = file.unwrap().path();
            if path.to_string_lossy().contains("audit") {
                log.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        for given in &acknowledged.keys {
            let Given { op, id, .. } = given;
            let op = format!("\"op\":\"{op}\"");
            let recorded = (log.lines()).any(|line| line.contains(&op) && line.contains(id));
            assert!(recorded, "{killed_at}: {given:?} without a record");
        }
        for id in &acknowledged.gone {
            let record = format!("\"op\":\"destroy\",\"key_id\":\"{id}\"");
            assert!(
                log.contains(&record),
                "{killed_at}: {id} went without a record"
            );
            let record = operator.key_show(id.parse().unwrap()).await.unwrap();
            assert!(record.destroyed.is_some(), "{killed_at}: {id} came back");
        }
        // The same keys again, by id and digest.
        let mut now = BTreeMap::new();
        match work {
            Work::Exchange => {
                let say = |_: &str, id: KeyId, key: &ContentKey| {
                    let digest = sha256(key);
                    let before = now.insert(id.to_string(), digest.clone());
                    assert!(before.is_none_or(|before| before == digest), "{killed_at}");
                };
                Exchanging::new(&local).all(say).await;
            }
            Work::Keys | Work::Rotation | Work::Acts | Work::Restore => {
                for number in 0..ASSETS {
                    let keys = lease(&local, number).await.keys;
                    let known = |key: LeasedKey| (key.key_id.to_string(), sha256(&key.key));
                    now.extend(keys.into_iter().map(known));
                }
            }
        }
        for Given { id, digest, .. } in &acknowledged.keys {
            assert_eq!(now.get(id), Some(digest), "{killed_at}");
        }
        let filter = KeyFilter {
            asset: Some("film".parse().unwrap()),
            ..KeyFilter::default()
        };
        let listed = operator.key_list(filter).await.unwrap().keys;
        assert_eq!(
            listed.len(),
            now.len(),
            "{killed_at}: a key that nobody finds"
        );
    });
}

/// A partner's encryptor and key server, and the keystore that they deal with.
struct Exchanging<'l> {
    local: &'l Local,
    license: Arc<dyn Keystore>,
}

impl<'l> Exchanging<'l> {
    fn new(local: &'l Local) -> Self {
        let grants = [
            Capability::Exchange,
            Capability::Deposit,
            Capability::Export,
        ]
        .map(|capability| Grant {
            capability,
            tenant: "default".to_owned(),
            assets: Assets::All,
        });
        let license = local.handle(Caller::new("license", grants.into()));
        Self { local, license }
    }

    /// Each call once, every key of which is said as soon as it is answered.
    async fn all(&self, mut say: impl FnMut(&str, KeyId, &ContentKey)) {
        let license = &self.license;
        for exchanged in license.exchange(asked()).await.unwrap() {
            say("exchange", exchanged.key_id, &exchanged.key);
        }
        license.deposit(brought()).await.unwrap();
        for DepositedKey { head, key } in brought().keys {
            say("deposit", head.key_id, &key);
        }
        let all = HandOverRequest {
            tenant: "default".to_owned(),
            asset: "film".parse().unwrap(),
            scheme: None,
            partner: partner(),
        };
        for handed in license.hand_over(all).await.unwrap().keys {
            say("hand_over", handed.key_id, &handed.key);
        }
        for leased in lease(self.local, 0).await.keys {
            say("lease", leased.key_id, &leased.key);
        }
        let export = ExportRequest {
            asset: "film".parse().unwrap(),
            key_ids: (1..=4).map(|number| KeyId::new([number; 16])).collect(),
            entitlement: EntitlementRef {
                issuer: "tests".to_owned(),
                subject: None,
                token_id: None,
                system: "clearkey".to_owned(),
            },
        };
        for exported in license.export(export).await.unwrap() {
            say("export", exported.key_id, &exported.key);
        }
    }
}

/// The keys that an encryptor asks for; the first content that is leased claims them.
fn asked() -> ExchangeRequest {
    let asked = [(1, Label::Audio), (2, Label::Hd)].map(|(number, label)| AskedKey {
        key_id: KeyId::new([number; 16]),
        usage: usage(label),
        iv: None,
    });
    ExchangeRequest {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        keys: asked.into(),
        partner: partner(),
    }
}

/// The keys that a key server brings.
fn brought() -> DepositRequest {
    let brought = [(3, Label::Sd), (4, Label::Uhd1)].map(|(number, label)| DepositedKey {
        head: DepositedHead {
            key_id: KeyId::new([number; 16]),
            usage: usage(label),
            iv: Some(ConstantIv::new([number; 16])),
        },
        key: ContentKey::take(&mut [number + 0x40; 16]),
    });
    DepositRequest {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        keys: brought.into(),
        partner: partner(),
    }
}

fn usage(label: Label) -> KeyUsage {
    KeyUsage {
        label,
        scheme: Scheme::Cbcs,
        elsewhere: None,
    }
}

fn partner() -> Partner {
    Partner {
        name: "encryptor".to_owned(),
        protocol: "speke-2.0".to_owned(),
        recipients: vec![],
    }
}

async fn open(folder: &Path) -> Local {
    let settings = testing::settings(folder);
    Local::open(&settings, Arc::new(SystemClock)).await.unwrap()
}

async fn lease_series(local: &Local, number: u32, keys: u8) {
    let contexts = (0..keys).map(|source| KeyContext {
        tenant: "default".to_owned(),
        asset: "series".parse().unwrap(),
        label: Label::Hd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            // No digest is all zeros.
            sources: [source + 1; 32],
            number,
        },
    });
    let contexts = contexts.collect();
    let request = LeaseRequest { contexts };
    testing::origin(local).lease(request).await.unwrap();
}

async fn lease(local: &Local, number: u32) -> Lease {
    let contexts = [Label::Audio, Label::Hd].map(|label| KeyContext {
        tenant: "default".to_owned(),
        asset: "film".parse().unwrap(),
        label,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number,
        },
    });
    let request = LeaseRequest {
        contexts: contexts.into(),
    };
    testing::origin(local).lease(request).await.unwrap()
}

fn sha256(key: &ContentKey) -> String {
    let digest = digest(&SHA256, key.expose());
    (digest.as_ref().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}
