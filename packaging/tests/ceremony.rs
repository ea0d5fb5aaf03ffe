//! How a keystore gets its root by the command line: shares dealt to people at a terminal, to files and to a program, and a
//! token that is asked by the binary itself.
//!
//! Cannot see what a terminal keeps of what it has shown.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tempfile::TempDir;

use appliance::{Node, Running};

/// A keystore that waits for its root.
struct Waiting {
    node: Node,
    folder: TempDir,
    _keystore: Running,
}

impl Waiting {
    fn new(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::new(folder.path(), &folder.path().join("run"));
        let mut serve = node.command(&["serve", "--role", "keystore"]);
        serve.env("CASTELLUM__KEYSTORE__INIT_AT_START", "false");
        serve.envs(settings.iter().copied());
        let keystore = node.spawn_by(serve);
        let waiting = Self {
            node,
            folder,
            _keystore: keystore,
        };
        waiting.node.wait_for("the keystore to answer", || {
            waiting.verb(&["status"]).status.success()
        });
        waiting
    }

    fn command(&self, verb: &[&str]) -> Command {
        self.node.command(&[&["keystore"], verb].concat())
    }

    fn verb(&self, verb: &[&str]) -> Output {
        self.command(&[verb, &["--json"]].concat())
            .output()
            .unwrap()
    }

    fn status(&self) -> Value {
        answer(&self.verb(&["status"]))
    }
}

fn answer(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn shares_go_to_files_and_come_back_by_operators_and_calls() {
    let keystore = Waiting::new(&[]);
    let deal = |folder: &Path| {
        let folder = folder.to_str().unwrap();
        let plan = ["init", "--shares", "3", "--threshold", "2"];
        keystore.verb(&[&plan[..], &["--share-files", folder]].concat())
    };
    // Where the shares cannot be written, or nobody says where to, nothing is kept.
    let blocked = keystore.folder.path().join("blocked");
    fs::write(&blocked, "no folder").unwrap();
    refusal(&deal(&blocked), 1);
    refusal(
        &keystore.verb(&["init", "--shares", "3", "--threshold", "2"]),
        2,
    );
    refusal(&keystore.verb(&["init", "--shares", "3"]), 2);
    assert_eq!(keystore.status()["state"], "uninitialised");

    let shares = keystore.folder.path().join("shares");
    assert_eq!(answer(&deal(&shares))["state"], "unsealed");
    let share = |number: u8| shares.join(format!("share-{number}.txt"));
    assert_eq!((mode(&shares), mode(&share(3))), (0o700, 0o600));
    assert_eq!(keystore.status()["kept_by"], json!(["shares"]));
    answer(&keystore.verb(&["seal"]));

    let give = |number| keystore.verb(&["unseal", "--share", share(number).to_str().unwrap()]);
    let given = answer(&give(3));
    assert_eq!(
        (&given["state"], &given["given"]),
        (&json!("sealed"), &json!([3]))
    );
    assert_eq!(keystore.status()["shares"]["given"], json!([3]));
    assert!(refusal(&give(3), 1).contains("share 3 was given already"));
    // Another operator types the other one, as people type.
    let text = fs::read_to_string(share(1)).unwrap();
    let typed = text.lines().last().unwrap().to_lowercase();
    let mut unseal = keystore.command(&["unseal", "--share", "-"]);
    let mut child = piped(&mut unseal);
    writeln!(child.stdin.take().unwrap(), "{typed}").unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("2 of 2 given (share 1, 3)"), "{said}");
    assert_eq!(keystore.status()["state"], "unsealed");
}

fn piped(command: &mut Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn shares_go_to_a_program_line_by_line() {
    let keystore = Waiting::new(&[]);
    let mut init = keystore.command(&["init", "--shares", "2", "--threshold", "2"]);
    let mut child = piped(&mut init);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let share = lines.next().unwrap().unwrap();
        assert!(share.starts_with("CS1-"), "{share}");
        writeln!(stdin, "{share}").unwrap();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(keystore.status()["state"], "unsealed");
}

/// A terminal, what it was sent, and who types at it.
struct Terminal {
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command at a terminal of its own.
    fn start(command: &mut Command) -> (Self, Running) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, vec![]).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(OsStr::from_bytes(name.as_bytes()))
            .unwrap();
        let child = command
            .stdin(slave.try_clone().unwrap())
            .stdout(Stdio::null())
            .stderr(slave)
            .spawn()
            .unwrap();
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(String::new()));
        let mut reader = master.try_clone().unwrap();
        let screen = shown.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Fails when the last process has left the terminal.
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..read]);
                screen.lock().unwrap().push_str(&text);
            }
        });
        (Self { master, shown }, Running(child))
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    fn waits_for(&self, text: &str) {
        appliance::wait_for(text, || self.shown().contains(text));
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.master, "{line}").unwrap();
    }
}

#[test]
fn a_ceremony_walks_keepers_through_and_shows_each_share_once() {
    let keystore = Waiting::new(&[]);
    let mut init = keystore.command(&["init", "--shares", "3", "--threshold", "2"]);
    let (mut terminal, mut running) = Terminal::start(&mut init);
    let mut shares: Vec<String> = vec![];
    for index in 1..=3 {
        terminal.waits_for(&match index {
            1 => "begins anew".to_owned(),
            _ => format!("{} of 3 read back", index - 1),
        });
        let before = terminal.shown().len();
        terminal.type_line("");
        terminal.waits_for(&format!("Share {index} of 3"));
        appliance::wait_for("the share", || {
            terminal.shown()[before..].contains("Write it down")
        });
        let shown = terminal.shown();
        let share = shown
            .split_whitespace()
            .rfind(|word| word.starts_with("CS1-"));
        let share = share.unwrap().to_owned();
        terminal.type_line("");
        terminal.waits_for(&format!("Type share {index} again"));
        if index == 2 {
            // Another keeper's, and a slip of the pen.
            terminal.type_line(&shares[0]);
            terminal.waits_for("share 1 was given already");
            terminal.type_line(&share.replace('-', "").replacen("CS1", "CS1-0", 1));
            terminal.waits_for("not a share");
        }
        terminal.type_line(&share.to_lowercase());
        terminal.waits_for(&format!("{index} of 3 read back"));
        shares.push(share);
    }
    assert!(running.0.wait().unwrap().success());
    let shown = terminal.shown();
    for share in &shares {
        assert_eq!(shown.matches(share.as_str()).count(), 1, "shown once");
        assert!(
            !shown.contains(&share.to_lowercase()),
            "not while it is typed"
        );
        let after = shown.split(share.as_str()).nth(1).unwrap();
        assert!(after.contains("\x1b[2J\x1b[3J"), "and cleared");
    }
    assert_eq!(keystore.status()["state"], "unsealed");
}

/// The binary is its own token process.
#[test]
fn a_token_keeps_the_root_and_shares_stand_by() {
    let tokens = tempfile::tempdir().unwrap();
    let path = |name: &str| tokens.path().join(name).display().to_string();
    let conf = path("softhsm2.conf");
    fs::create_dir(path("tokens")).unwrap();
    fs::write(
        &conf,
        format!("directories.tokendir = {}\n", path("tokens")),
    )
    .unwrap();
    fs::write(path("pin"), "1234567890\n").unwrap();
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &conf)
        .args(["--init-token", "--free", "--label", "castellum"])
        .args(["--so-pin", "0987654321", "--pin", "1234567890"])
        .output()
        .expect("softhsm2 is installed, as packaging/setup/need.sh test sees to");
    assert!(made.status.success(), "{made:?}");
    let keystore = Waiting::new(&[
        ("SOFTHSM2_CONF", &conf),
        (
            "CASTELLUM__KEYSTORE__PKCS11__MODULE",
            "/usr/lib/softhsm/libsofthsm2.so",
        ),
        ("CASTELLUM__KEYSTORE__PKCS11__TOKEN", "castellum"),
        ("CASTELLUM__KEYSTORE__PKCS11__PIN_FILE", &path("pin")),
    ]);
    // Not configured, so not kept by it.
    let refused = refusal(&keystore.verb(&["init", "--transit"]), 1);
    assert!(
        refused.contains("keystore.transit is not configured"),
        "{refused}"
    );
    let shares = path("shares");
    let plan = ["init", "--pkcs11", "--shares", "2", "--threshold", "2"];
    let made = keystore.verb(&[&plan[..], &["--share-files", &shares]].concat());
    assert_eq!(answer(&made)["state"], "unsealed");
    assert_eq!(keystore.status()["kept_by"], json!(["pkcs11", "shares"]));

    answer(&keystore.verb(&["seal"]));
    answer(&keystore.verb(&["unseal", "--pkcs11"]));
    assert_eq!(keystore.status()["state"], "unsealed");
    // The token is gone for good: the keepers come.
    answer(&keystore.verb(&["seal"]));
    fs::remove_dir_all(path("tokens")).unwrap();
    refusal(&keystore.verb(&["unseal", "--pkcs11"]), 4);
    let share = |number: u8| format!("{shares}/share-{number}.txt");
    let both = ["unseal", "--share", &share(2), "--share", &share(1)];
    assert_eq!(answer(&keystore.verb(&both))["state"], "unsealed");
}
