//! No key lies in the open at rest: in no file, and in no memory of a process that has no use for it just then.
//!
//! Keystore, origin and licence server are processes of the real binary. A title is ingested, played and licensed; then
//! every file is searched for every key, and every readable mapping of each process, which root reads while the process
//! stands still. That is more than a core would hold: the pages that are left out of dumps are among them. Searched for
//! is each key as it is, in hexadecimal of either case, in base64 and in base64url.
//!
//! # Where a key may be
//! | key | where | until |
//! |---|---|---|
//! | content key | the origin's cache of leases, expanded, as bytes | the lease ends, or the keystore is sealed |
//! | a tenant's KEK | the keystore's guarded pages, left out of dumps | the keystore is sealed |
//!
//! Nowhere else, and as text nowhere at all: not in the keystore, whose content keys are wiped with each answer, nor in
//! the licence server, whose answers are wiped when they are sent, with what libraries made of them on the way. The root
//! is not searched for, since nothing shows one; it is kept as KEKs are.
//!
//! What this cannot catch: what is in registers, in the kernel's buffers of sockets, and on the wire; a key that is in
//! memory only while an answer is under way.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;
mod search;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use appliance::{
    Node, PATIENCE, Running, curl, free_port, project, representations, signal, within,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use search::{Found, Search, Secret};
use serde_json::{Value, json};

const PASSPHRASE: &str = "a passphrase of the tests";

/// A pair of age keys for tests, whose private half is 32 times 0x42.
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

/// A Unix user who is not root, and operates the keystore as well.
const BERTA: &str = "65534";

impl Search<'_> {
    /// Every readable mapping of the process, which stands still meanwhile.
    fn memory(&self, process: &Running) -> Vec<Found> {
        const STEP: usize = 1 << 20;
        let process_id = process.0.id();
        signal(&process.0, "STOP");
        let memory = fs::File::open(format!("/proc/{process_id}/mem")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{process_id}/maps")).unwrap();
        let undumped = undumped(process_id);
        let (mut found, mut read) = (Vec::new(), 0);
        for map in maps.lines() {
            let mut fields = map.split_whitespace();
            let (from, to) = fields.next().unwrap().split_once('-').unwrap();
            let [from, to] = [from, to].map(|it| u64::from_str_radix(it, 16).unwrap());
            if !fields.next().unwrap().starts_with('r') || map.contains("[v") {
                continue;
            }
            let mut at = from;
            while at < to {
                let len = usize::try_from(to - at).unwrap().min(STEP + self.longest);
                let mut bytes = vec![0; len];
                // The end of a mapped file may be beyond the file.
                let Ok(len) = memory.read_at(&mut bytes, at) else {
                    break;
                };
                read += len;
                if bytes.iter().any(|byte| *byte != 0) {
                    let place = |offset| format!("{:x} of {map}", at + offset as u64);
                    let before = found.len();
                    self.bytes(&bytes[..len], place, &mut found);
                    let guarded = undumped.iter().any(|map| map.contains(&at));
                    found[before..]
                        .iter_mut()
                        .for_each(|it| it.guarded = guarded);
                }
                at += STEP as u64;
            }
        }
        signal(&process.0, "CONT");
        assert!(read > 1 << 20, "read {read} bytes of a process");
        found
    }
}

/// The mappings that are left out of dumps: `dd` among their flags (proc(5)).
fn undumped(process_id: u32) -> Vec<Range<u64>> {
    let smaps = fs::read_to_string(format!("/proc/{process_id}/smaps")).unwrap();
    let (mut map, mut undumped) = (0..0, Vec::new());
    for line in smaps.lines() {
        let range = line
            .split_once(' ')
            .and_then(|(range, _)| range.split_once('-'));
        let hex = |text| u64::from_str_radix(text, 16).ok();
        if let Some((Some(from), Some(to))) = range.map(|(from, to)| (hex(from), hex(to))) {
            map = from..to;
        } else if line.starts_with("VmFlags:") && line.contains(" dd") {
            undumped.push(map.clone());
        }
    }
    undumped
}

/// Three roles, each a process.
struct Roles {
    node: Node,
    license: String,
    token: String,
    keystore: Running,
    origin: Running,
    licenser: Running,
}

impl Roles {
    fn start(folder: &Path) -> Self {
        let node = Node::new(&folder.join("node"), &folder.join("run"));
        let port = free_port();
        let issuer = node.folder.join("issuer.key");
        fs::write(&issuer, "an HS256 secret of the tests, which has 47 bytes").unwrap();
        let config = node.folder.join("castellum.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        let issuers = format!(
            "[[license.issuers]]\nname = \"test\"\nissuer = \"shop\"\naudience = \"castellum\"\n\
             algorithm = \"HS256\"\nkey_file = {issuer:?}\n\
             [keystore.callers.berta]\nuser = {BERTA:?}\nmay = [\"operate\"]\n"
        );
        fs::write(&config, format!("{text}\n{issuers}")).unwrap();
        let mint = [
            "token",
            "mint",
            "--json",
            "--issuer",
            "shop",
            "--audience",
            "castellum",
            "--asset",
            "film",
            "--key",
        ];
        let minted = appliance::castellum()
            .args(mint)
            .arg(&issuer)
            .output()
            .unwrap();
        let minted: Value = serde_json::from_slice(&minted.stdout).unwrap();
        // Berta reads the configuration and reaches the socket.
        for folder in [folder, &node.folder, &folder.join("run")] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        let keystore = node.spawn("keystore");
        let roles = Self {
            keystore,
            license: format!("http://127.0.0.1:{port}"),
            token: minted["token"].as_str().unwrap().to_owned(),
            origin: node.start("origin"),
            licenser: node.spawn("license"),
            node,
        };
        let license = format!("{}/", roles.license);
        let answers = || curl(&[&license]).status != 0;
        roles.node.wait_for("the licence server to answer", answers);
        roles
    }

    fn verb(&self, verb: &[&str]) {
        let output = self.node.command(verb).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb:?}: {said}");
    }

    fn json(&self, verb: &[&str]) -> Value {
        let output = self.node.command(verb).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Wraps everything anew: first under new KEKs, then under a new root.
    fn rotate(&self) {
        self.verb(&["keystore", "rotate"]);
        self.node.wait_for("the rotation", || {
            self.json(&["keystore", "status"])["rotating"] == false
        });
        self.verb(&["keystore", "rotate", "--root"]);
    }

    /// The tenant's KEKs, which root and Berta agree to hand out.
    fn keks(&self) -> Vec<Vec<u8>> {
        let file = self.node.folder.join("keks.age");
        let path = file.to_str().unwrap();
        let verb = [
            "keystore",
            "export-keks",
            path,
            "--tenant",
            "default",
            "--recipient",
            RECIPIENT,
        ];
        let waits = self.json(&verb);
        let id = waits["waits"]["id"].as_str().unwrap();
        let by_berta = std::process::Command::new("setpriv")
            .args(["--reuid", BERTA, "--regid", BERTA, "--clear-groups"])
            .arg(env!("CARGO_BIN_EXE_castellum"))
            .args(["keystore", "approve", id, "--config"])
            .arg(self.node.folder.join("castellum.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&by_berta.stderr);
        assert!(by_berta.status.success(), "{said}");
        self.verb(&verb);
        let identity: age::x25519::Identity = IDENTITY.parse().unwrap();
        let opened = age::decrypt(&identity, &fs::read(file).unwrap()).unwrap();
        let opened: Value = serde_json::from_slice(&opened).unwrap();
        let keks = opened["keks"].as_array().unwrap().iter();
        keks.map(|kek| bytes(kek["key"].as_str().unwrap()))
            .collect()
    }

    /// Plays every track under a policy for a while, and takes a licence for each of its keys, once over HTTP/1.1 and
    /// once over HTTP/2. Adds the keys, which have come through every buffer on the way.
    fn play(&self, policy: &str, keys: &mut BTreeMap<String, Vec<u8>>) {
        let (url, mpd) = self.node.mpd("film", policy);
        for track in representations(&url, &mpd) {
            for segment in track.segments.iter().take(3) {
                curl(&[segment]).whole();
            }
            let key_id = track.key_id.unwrap();
            let kid = URL_SAFE_NO_PAD.encode(bytes(&key_id.replace('-', "")));
            let body = json!({ "kids": [kid], "type": "temporary" }).to_string();
            let (bearer, url) = (
                format!("Authorization: Bearer {}", self.token),
                format!("{}/license/clearkey/film", self.license),
            );
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                let args = [version, "-H", &bearer, "-d", &body, &url];
                let licence: Value = serde_json::from_slice(&curl(&args).whole()).unwrap();
                let key = licence["keys"][0]["k"].as_str().unwrap();
                let key = URL_SAFE_NO_PAD.decode(key).unwrap();
                assert_eq!(key.len(), 16);
                keys.insert(key_id.clone(), key.clone());
                if policy == "cenc" {
                    let url = format!("{}/license/hls/film/{key_id}", self.license);
                    assert_eq!(curl(&[version, "-H", &bearer, &url]).whole(), key);
                }
            }
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn nothing_at_rest_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let roles = Roles::start(folder.path());
    let memory = format!("/proc/{}/mem", roles.keystore.0.id());
    if let Err(error) = fs::File::open(memory) {
        assert!(std::env::var_os("CASTELLUM_NO_SKIP").is_none(), "{error}");
        return eprintln!("skipped: only root reads the memory of other processes: {error}");
    }
    let title = project().join("packaging/demo/title");
    let film = [
        "castellum-180.mp4",
        "castellum-360.mp4",
        "castellum-eng.mp4",
    ];
    let film = film.map(|file| title.join(file).display().to_string());
    roles.verb(
        &[
            &["ingest", "--asset", "film"],
            &film.each_ref().map(String::as_str)[..],
        ]
        .concat(),
    );
    let mut keys = BTreeMap::new();
    roles.play("cbcs", &mut keys);
    roles.rotate();
    roles.play("cenc", &mut keys);
    let keks = roles.keks();
    assert!(keys.len() >= 4 && keks.len() == 2, "{keys:?} {keks:?}");
    let backup = roles.node.folder.join("backup.age");
    roles.verb(&[
        "keystore",
        "backup",
        backup.to_str().unwrap(),
        "--recipient",
        RECIPIENT,
    ]);

    let content = |(key_id, key): (&String, &Vec<u8>)| Secret::bytes(content_key(key_id), key);
    let mut secrets: Vec<_> = keys.iter().map(content).collect();
    secrets.extend(keks.iter().map(|kek| Secret::bytes(KEK, kek)));
    secrets.push(Secret::text("the passphrase", PASSPHRASE));
    let search = Search::new(&secrets);

    // The search finds what is there: the origin works with the keys, and the keystore with the KEKs.
    let lent = search.memory(&roles.origin);
    for key_id in keys.keys() {
        let found = lent.iter().any(|it| it.secret == content_key(key_id));
        assert!(found, "the origin has no {key_id}");
    }
    let odd = |it: &&Found| !it.as_it_is || !keys.keys().any(|id| it.secret == content_key(id));
    let odd: Vec<_> = lent.iter().filter(odd).collect();
    assert!(odd.is_empty(), "in the origin: {odd:#?}");
    let kept = search.memory(&roles.keystore);
    assert!(
        kept.iter().any(|it| it.secret == KEK),
        "the keystore has no KEK"
    );
    let odd = |it: &&Found| !it.as_it_is || !it.guarded || it.secret != KEK;
    let odd: Vec<_> = kept.iter().filter(odd).collect();
    assert!(odd.is_empty(), "in the keystore: {odd:#?}");
    let licenser = search.memory(&roles.licenser);
    assert!(licenser.is_empty(), "in the licence server: {licenser:#?}");

    roles.verb(&["keystore", "seal"]);
    let kept = search.memory(&roles.keystore);
    assert!(kept.is_empty(), "in the sealed keystore: {kept:#?}");
    let mut lent = Vec::new();
    let ended = || {
        lent = search.memory(&roles.origin);
        lent.is_empty()
    };
    assert!(
        within(PATIENCE, ended),
        "in the origin after the seal: {lent:#?}"
    );

    let passphrase = roles.node.folder.join("passphrase");
    let files = search.files(folder.path(), &[&passphrase]);
    assert!(files.is_empty(), "{files:#?}");
}

const KEK: &str = "a KEK";

fn content_key(key_id: &str) -> String {
    format!("content key {key_id}")
}
