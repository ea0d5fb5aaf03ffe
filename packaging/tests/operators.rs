//! Two operators at their terminals: two Unix users, told apart by what the kernel says of them.
//!
//! Needs root, to be two users, and says so where it is skipped.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A Unix user who is not root.
const BERTA: &str = "65534";

/// A pair of age keys for tests, whose private half is 32 times 0x42.
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

struct Keystore {
    folder: PathBuf,
    daemon: Child,
}

impl Drop for Keystore {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Keystore {
    fn serve(folder: &Path) -> Self {
        let at = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "runtime_dir = {:?}\n[keystore]\nstate_dir = {:?}\nargon2.memory = \"19MiB\"\nargon2.passes = 1\n\
             [keystore.callers.anna]\nuser = \"root\"\nmay = [\"operate\", \"audit\"]\n\
             [keystore.callers.berta]\nuser = {BERTA:?}\nmay = [\"operate\"]\n",
            at("run"),
            at("state"),
        );
        fs::write(folder.join("castellum.toml"), config).unwrap();
        // The other user reads the configuration and reaches the socket.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let daemon = castellum(&[])
            .args(["serve", "--role", "keystore", "-c"])
            .arg(folder.join("castellum.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keystore = Self {
            folder: folder.to_owned(),
            daemon,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while code(&keystore.root(&["status"])) != 0 {
            assert!(Instant::now() < deadline, "the keystore answers");
            std::thread::sleep(Duration::from_millis(50));
        }
        keystore
    }

    fn run(&self, before: &[&str], verb: &[&str]) -> Output {
        castellum(before)
            .arg("keystore")
            .args(verb)
            .arg("--json")
            .arg("-c")
            .arg(self.folder.join("castellum.toml"))
            .output()
            .unwrap()
    }

    fn root(&self, verb: &[&str]) -> Output {
        self.run(&[], verb)
    }

    fn berta(&self, verb: &[&str]) -> Output {
        self.run(&as_berta(), verb)
    }

    /// Root asks, Berta agrees, and root does it.
    fn agreed(&self, verb: &[&str]) -> Value {
        let asked = self.root(verb);
        assert_eq!(code(&asked), 6, "{}", said(&asked));
        let id = json(&asked)["waits"]["id"].as_str().unwrap().to_owned();
        assert_eq!(code(&self.root(&["approve", &id])), 1, "not by oneself");
        let approved = self.berta(&["approve", &id]);
        assert_eq!(code(&approved), 0, "{}", said(&approved));
        assert!(
            json(&approved)["approved_by"]
                .as_str()
                .unwrap()
                .contains("berta")
        );
        let done = self.root(verb);
        assert_eq!(code(&done), 0, "{}", said(&done));
        json(&done)
    }
}

fn as_berta() -> [&'static str; 4] {
    [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
}

/// The program, run by way of these words.
fn castellum(before: &[&str]) -> Command {
    let exe = env!("CARGO_BIN_EXE_castellum");
    let words = [before, &[exe]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CASTELLUM") {
            command.env_remove(name);
        }
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_users_restore_a_backup_on_an_empty_machine() {
    let works = castellum(&as_berta()).arg("--version").output();
    if !works.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: this user cannot be two users (setpriv, as root)");
    }
    let [lost, found] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let at =
        |folder: &tempfile::TempDir, name: &str| folder.path().join(name).display().to_string();
    let passphrase = at(&lost, "passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    let unsealed_by = ["--passphrase-file", &passphrase];
    let backup = at(&lost, "keystore.age");
    let identity = at(&lost, "identity");
    fs::write(&identity, format!("{IDENTITY}\n")).unwrap();

    let keystore = Keystore::serve(lost.path());
    let init = [&["init"], &unsealed_by[..]].concat();
    assert_eq!(code(&keystore.root(&init)), 0);
    let done = keystore.agreed(&["set-aside-log"]);
    assert!(done["done"].as_str().unwrap().contains("audit-"));
    let keks = at(&lost, "keks.age");
    let export = [
        "export-keks",
        &keks,
        "--tenant",
        "default",
        "--recipient",
        RECIPIENT,
    ];
    assert_eq!(code(&keystore.root(&export)), 1, "there is no KEK yet");
    let written = keystore.root(&["backup", &backup, "--recipient", RECIPIENT]);
    assert_eq!(code(&written), 0, "{}", said(&written));
    assert_eq!(
        json(&written)["bytes"],
        fs::metadata(&backup).unwrap().len()
    );
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(keystore);

    fs::create_dir(found.path().join("state")).unwrap();
    let tombstones = "state/tombstones.log";
    fs::copy(lost.path().join(tombstones), found.path().join(tombstones)).unwrap();
    let keystore = Keystore::serve(found.path());
    let restore = ["restore", &backup, "--identity", &identity];
    let done = keystore.agreed(&restore);
    assert!(
        done["done"].as_str().unwrap().contains("restored"),
        "{done}"
    );
    let unseal = [&["unseal"], &unsealed_by[..]].concat();
    assert_eq!(code(&keystore.root(&unseal)), 0);
    assert_eq!(code(&keystore.root(&["verify"])), 0);
    // Once more is not even asked for.
    assert_eq!(code(&keystore.root(&restore)), 1);
    assert_eq!(
        json(&keystore.root(&["approvals"]))["approvals"],
        serde_json::json!([])
    );
}
