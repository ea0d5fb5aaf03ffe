//! Every key that a client saw has its audit record, whatever dies on the way; and a record whose answer nobody got is one
//! of a moment at which something died.
//!
//! Keystore, origin and licence server are processes of the real binary, the licence server's store is PostgreSQL, and the
//! keystore's disk is small. Clients ask for licences all the time, each time with a token of its own, while one
//! after the other is killed and comes back, and the disk fills up and has room again. Then the audit log is verified,
//! and set against what the clients got.
//!
//! The kernel lives on, so this cannot show what a power cut does to records that were not synced: the keystore's own
//! crash sweep is about that.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;
#[path = "../../keystore/tests/postgres/mod.rs"]
mod postgres;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use appliance::{Node, free_port, project, representations};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

const SECRET: &str = "an HS256 secret of the tests, which has 47 bytes";

/// How many ask at once.
const CLIENTS: usize = 4;

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// These keys came, by id.
    Keys(BTreeSet<String>),
    /// A problem came: the last word of its type.
    Refused(String),
    /// No answer came, or none that was whole.
    Lost,
}

/// A request, by the id of its token.
struct Asked {
    token_id: String,
    began: Instant,
    ended: Instant,
    outcome: Outcome,
}

#[test]
fn every_key_that_was_seen_is_recorded_whatever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("node/keystore");
    fs::create_dir_all(&disk).unwrap();
    let Some(_disk) = Disk::mount(&disk) else {
        return;
    };
    let Some(database) = postgres::Server::start() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = runtime.block_on(database.database());
    let url = format!(
        "postgres://castellum@/{name}?host={}",
        database.folder().display()
    );
    let port = free_port();
    let node = node(folder.path(), port, &url);
    let mut keystore = node.spawn("keystore");
    let _origin = node.start("origin");
    let mut licenser = node.spawn("license");
    let (url, mpd) = node.mpd("film", "cbcs");
    let key_ids: BTreeSet<_> = (representations(&url, &mpd).into_iter())
        .map(|track| track.key_id.unwrap())
        .collect();
    assert_eq!(key_ids.len(), 2);

    let clients = Clients::start(port, &key_ids);
    let goes_on = |what: &str| {
        let before = clients.delivered();
        node.wait_for(what, || clients.delivered() > before + 20);
    };
    goes_on("licences");
    let mut deaths = Vec::new();
    for round in 0..3 {
        let began = Instant::now();
        keystore.0.kill().unwrap();
        keystore.0.wait().unwrap();
        std::thread::sleep(Duration::from_millis(100 * round));
        keystore = node.spawn("keystore");
        goes_on("licences after the keystore died");
        deaths.push(began..Instant::now());
    }
    for _ in 0..2 {
        let began = Instant::now();
        licenser.0.kill().unwrap();
        licenser.0.wait().unwrap();
        licenser = node.spawn("license");
        goes_on("licences after the licence server died");
        deaths.push(began..Instant::now());
    }
    database.stop();
    node.wait_for("licences to be refused without the database", || {
        clients.refused("sessions-unavailable") > 20
    });
    database.start_again();
    goes_on("licences after the database died");

    // Somebody fills the disk; what the log has taken of it ahead lasts for a while.
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    node.wait_for("licences to be refused without room for records", || {
        clients.refused("audit-unavailable") > 20
    });
    drop(file);
    fs::remove_file(filler).unwrap();
    goes_on("licences once there is room again");
    let asked = clients.end();

    let verified = node.command(&["keystore", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let records = records(&disk.join("audit.log"));
    let delivered = |asked: &&Asked| matches!(asked.outcome, Outcome::Keys(_));
    let (seen, unseen): (Vec<_>, Vec<_>) = asked.iter().partition(delivered);
    for asked in &seen {
        let Outcome::Keys(keys) = &asked.outcome else {
            continue;
        };
        let recorded = records.get(&asked.token_id);
        let recorded = recorded.unwrap_or_else(|| panic!("{} is not recorded", asked.token_id));
        assert_eq!(keys, recorded, "{}", asked.token_id);
    }
    let mut undelivered = 0;
    for asked in &unseen {
        if !records.contains_key(&asked.token_id) {
            continue;
        }
        undelivered += 1;
        let outcome = &asked.outcome;
        let died =
            (deaths.iter()).any(|death| asked.began <= death.end && asked.ended >= death.start);
        let broke = *outcome == Outcome::Lost
            || *outcome == Outcome::Refused("keystore-unavailable".to_owned());
        assert!(
            died && broke,
            "{}: {outcome:?} has a record",
            asked.token_id
        );
    }
    let ids: BTreeSet<_> = asked.iter().map(|asked| &asked.token_id).collect();
    let stray: Vec<_> = records.keys().filter(|id| !ids.contains(id)).collect();
    assert!(stray.is_empty(), "records of nobody's: {stray:?}");
    let mut outcomes: BTreeMap<_, usize> = BTreeMap::new();
    for asked in &unseen {
        *outcomes.entry(format!("{:?}", asked.outcome)).or_default() += 1;
    }
    assert!(outcomes.contains_key("Lost"), "{outcomes:?}");
    assert!(
        outcomes.contains_key("Refused(\"keystore-unavailable\")"),
        "{outcomes:?}"
    );
    eprintln!(
        "{} licences, {undelivered} records without an answer, {outcomes:?}",
        seen.len()
    );
}

/// Those who ask.
struct Clients {
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(port: u16, key_ids: &BTreeSet<String>) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let over: Arc<AtomicBool> = Arc::default();
        let kids: Vec<_> = key_ids.iter().map(|key_id| base64url(key_id)).collect();
        let body = json!({ "kids": kids }).to_string();
        let threads = (0..CLIENTS).map(|client| {
            let (asked, over, body) = (Arc::clone(&asked), Arc::clone(&over), body.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // Long names make long records, which soon fill what is left of a full disk.
                    let token_id = format!("{client}-{number}-{}", "x".repeat(200));
                    let began = Instant::now();
                    let outcome = ask(port, &token(&token_id), &body).unwrap_or(Outcome::Lost);
                    if outcome == Outcome::Lost {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    asked.lock().unwrap().push(Asked {
                        token_id,
                        began,
                        ended: Instant::now(),
                        outcome,
                    });
                }
            })
        });
        Self {
            threads: threads.collect(),
            asked,
            over,
        }
    }

    fn count(&self, of: impl Fn(&Outcome) -> bool) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| of(&asked.outcome)).count()
    }

    fn delivered(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Keys(_)))
    }

    fn refused(&self, kind: &str) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Refused(it) if it == kind))
    }

    fn end(self) -> Vec<Asked> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Asks over a connection of its own; none where what comes is no whole answer.
fn ask(port: u16, token: &str, body: &str) -> Option<Outcome> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let request = format!(
        "POST /license/clearkey/film HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let document: Value = serde_json::from_str(body).ok()?;
    if !head.starts_with("HTTP/1.1 200 ") {
        let kind = document["type"].as_str()?.rsplit(':').next()?;
        return Some(Outcome::Refused(kind.to_owned()));
    }
    let keys = document["keys"].as_array()?.iter();
    keys.map(|key| Some(uuid(key["kid"].as_str()?)))
        .collect::<Option<_>>()
        .map(Outcome::Keys)
}

/// The keys of each token's records.
fn records(log: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut records: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["op"] != "export" {
            continue;
        }
        let token_id = record["token_id"].as_str().unwrap().to_owned();
        let keys = record["keys"].as_array().unwrap().iter();
        let keys = keys.map(|key| key["key_id"].as_str().unwrap().to_owned());
        records.entry(token_id).or_default().extend(keys);
    }
    records
}

fn base64url(key_id: &str) -> String {
    let digits = key_id.replace('-', "");
    let bytes: Vec<u8> = (digits.as_bytes().chunks(2))
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn uuid(kid: &str) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(kid).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

fn token(token_id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({
        "iss": "shop", "aud": "castellum", "exp": now.as_secs() + 600, "assets": ["film"],
        "sub": "s".repeat(250), "jti": token_id,
    });
    let [header, claims] =
        [json!({ "alg": "HS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A small disk, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// None where nothing can be mounted, which is said.
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "none"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(
            std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
            "a tmpfs cannot be mounted"
        );
        eprintln!("skipped: a tmpfs cannot be mounted here");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: files of it may still be open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A node with a film, whose licence server listens at this port and remembers in this database.
fn node(folder: &Path, port: u16, database: &str) -> Node {
    let node = Node::new(&folder.join("node"), &folder.join("run"));
    let film = node.folder.join("media/film");
    fs::create_dir_all(&film).unwrap();
    let title = project().join("packaging/demo/title");
    for name in ["castellum-180.mp4", "castellum-eng.mp4"] {
        fs::copy(title.join(name), film.join(name)).unwrap();
    }
    let secret = node.folder.join("shop.secret");
    fs::write(&secret, SECRET).unwrap();
    let path = node.folder.join("castellum.toml");
    let written = fs::read_to_string(&path).unwrap();
    let written = written.replace(
        "[license.plain]\nlisten = \"127.0.0.1:0\"",
        &format!("[license.plain]\nlisten = \"127.0.0.1:{port}\""),
    );
    let more = format!(
        "[keystore.audit]\ncapacity = \"64MiB\"\nreserve = \"2MiB\"\n\
         [license.sessions]\nsingle_use = true\n\
         [license.store.postgres]\nurl = {database:?}\n\
         [[license.issuers]]\nname = \"shop\"\nissuer = \"shop\"\naudience = \"castellum\"\n\
         algorithm = \"HS256\"\nkey_file = {secret:?}\n"
    );
    fs::write(&path, format!("{written}\n{more}")).unwrap();
    node
}
