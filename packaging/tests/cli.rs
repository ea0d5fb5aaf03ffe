//! The command line as scripts meet it: exit codes, JSON, help, and a demo from start to end.
//!
//! Cannot catch what a terminal shows: nothing here has one.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod offline_audit;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs};

use loadtest::port;
use serde_json::Value;

fn castellum() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_castellum"));
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CASTELLUM"))
    {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    castellum().args(args).output().unwrap()
}

fn run_with_input(args: &[&str], input: &str) -> Output {
    let mut child = castellum()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &Output) -> Value {
    let text = str::from_utf8(&output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

/// A configuration whose every path lies in a folder of its own.
fn configured(folder: &Path, more: &str) -> PathBuf {
    let path = folder.join("castellum.toml");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "runtime_dir = {:?}\n[origin]\nmedia_root = {:?}\nstate_dir = {:?}\ncache_dir = {:?}\n\
         [license]\nstate_dir = {:?}\n[keystore]\nstate_dir = {:?}\n{more}",
        at("run"),
        at("media"),
        at("origin"),
        at("cache"),
        at("license"),
        at("keystore"),
    );
    fs::write(&path, text).unwrap();
    path
}

const VERBS: [&[&str]; 36] = [
    &["demo"],
    &["serve"],
    &["ingest"],
    &["export"],
    &["inspect"],
    &["audit"],
    &["keystore", "init"],
    &["keystore", "unseal"],
    &["keystore", "seal"],
    &["keystore", "rotate"],
    &["keystore", "enrol"],
    &["keystore", "revoke"],
    &["keystore", "approvals"],
    &["keystore", "approve"],
    &["keystore", "cancel"],
    &["keystore", "set-aside-log"],
    &["keystore", "lower-floor"],
    &["keystore", "accept-rollback"],
    &["keystore", "destroy-tenant"],
    &["keystore", "backup"],
    &["keystore", "restore"],
    &["keystore", "export-keks"],
    &["keystore", "checkpoint"],
    &["keystore", "status"],
    &["keystore", "verify"],
    &["key", "list"],
    &["key", "show"],
    &["key", "fetch"],
    &["key", "destroy"],
    &["token", "mint"],
    &["token", "inspect"],
    &["check-config"],
    &["config", "dump"],
    &["health"],
    &["completions"],
    &["man"],
];

#[test]
fn every_verb_has_help_with_an_example() {
    for verb in VERBS {
        let output = run(&[verb, &["--help"]].concat());
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(code(&output), 0, "{verb:?}");
        let example = format!("castellum {}", verb.join(" "));
        assert!(
            text.contains("Example:") && text.contains(&example),
            "{verb:?}: {text}"
        );
        assert!(text.contains("--json"), "{verb:?}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    let text = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for line in [
        "0  ok",
        "1  failed",
        "2  usage",
        "3  config",
        "4  unreachable",
        "5  sealed",
        "6  not allowed",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    assert_eq!(code(&run(&["dance"])), 2);
    assert_eq!(code(&run(&["ingest", "film.mp4"])), 2);
    assert_eq!(
        code(&run(&[
            "key",
            "destroy",
            "9eb4050d-e44b-4802-932e-27d75083e266"
        ])),
        2
    );
}

#[test]
fn check_config_reports_all_faults_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("castellum.toml");
    fs::write(&path, "[origin]\nsetle = \"2s\"\nhold = \"long\"\n").unwrap();
    let path = path.to_str().unwrap();

    let output = run(&["check-config", path, "--json"]);
    assert_eq!(code(&output), 3);
    let answer = json(&output);
    assert_eq!(answer["ok"], false);
    let findings = answer["findings"].as_array().unwrap();
    let places: Vec<_> = findings
        .iter()
        .map(|finding| {
            (
                finding["key"].as_str().unwrap(),
                finding["line"].as_u64(),
                finding["column"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            ("origin.setle", Some(2), Some(1)),
            ("origin.hold", Some(3), Some(8))
        ]
    );
    assert_eq!(findings[0]["help"], "did you mean `settle`?");

    let output = run(&["check-config", path]);
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(code(&output), 3);
    assert!(
        text.contains("did you mean `settle`?") && text.contains("castellum.toml:2:1"),
        "{text}"
    );
}

#[test]
fn the_defaults_are_sound_and_can_be_dumped_and_read_back() {
    assert_eq!(json(&run(&["check-config", "--json"]))["ok"], true);
    let dumped = run(&["config", "dump"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dumped.toml");
    fs::write(&path, &dumped.stdout).unwrap();
    let again = run(&["config", "dump", "-c", path.to_str().unwrap()]);
    assert_eq!(
        code(&again),
        0,
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(
        String::from_utf8(again.stdout).unwrap(),
        String::from_utf8(dumped.stdout).unwrap()
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let output = castellum()
        .env("CASTELLUM__ORIGIN__SETTLE", "7s")
        .args(["config", "dump", "--json"])
        .output()
        .unwrap();
    assert_eq!(json(&output)["origin"]["settle"], "7s");
}

#[test]
fn nobody_there_is_4() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "");
    let config = config.to_str().unwrap();
    let film = folder.path().join("film.mp4");
    fs::write(&film, "").unwrap();
    let film = film.to_str().unwrap();
    let twin = folder.path().join("twin");
    let twin = twin.to_str().unwrap();
    let verbs: [&[&str]; 5] = [
        &["keystore", "status", "-c", config],
        &["key", "list", "-c", config],
        &["health", "--role", "keystore", "-c", config],
        &["ingest", film, "--asset", "film", "-c", config],
        &["export", "film", twin, "-c", config],
    ];
    for verb in verbs {
        let output = run(verb);
        assert_eq!(
            code(&output),
            4,
            "{verb:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn inspect_says_what_is_in_a_file_and_refuses_what_is_none() {
    let title = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/title");
    let output = run(&["inspect", title.to_str().unwrap(), "--json"]);
    assert_eq!(
        code(&output),
        0,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = json(&output);
    assert_eq!(answer["fit"], true);
    assert_eq!(answer["files"].as_array().unwrap().len(), 5);
    let renditions = answer["ladder"]["renditions"].as_array().unwrap();
    assert_eq!(
        renditions
            .iter()
            .filter(|rendition| rendition["label"] == "audio")
            .count(),
        2
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    fs::write(&path, b"\0\0\0\x10ftypisom\0\0\0\0").unwrap();
    let output = run(&["inspect", path.to_str().unwrap(), "--json"]);
    assert_eq!(code(&output), 1);
    let answer = json(&output);
    assert_eq!(answer["fit"], false);
    assert!(
        answer["files"][0]["refused"]
            .as_str()
            .unwrap()
            .contains("moov"),
        "{answer}"
    );
}

#[test]
fn a_token_is_minted_and_judged() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("shop.secret");
    fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let issuer = format!(
        "[[license.issuers]]\nname = \"shop\"\nissuer = \"https://shop.example\"\naudience = \"castellum\"\n\
         algorithm = \"HS256\"\nkey_file = {:?}\n",
        key.display().to_string()
    );
    let config = configured(folder.path(), &issuer);
    let mint = |audience: &str| {
        let key = key.to_str().unwrap();
        let args = [
            "token",
            "mint",
            "--key",
            key,
            "--issuer",
            "https://shop.example",
            "--audience",
            audience,
            "--asset",
            "film",
            "--for",
            "10m",
            "--json",
        ];
        json(&run(&args))["token"].as_str().unwrap().to_owned()
    };
    let inspect = |token: &str| {
        let args = ["token", "inspect", "--json", "-c", config.to_str().unwrap()];
        run_with_input(&args, token)
    };
    let good = inspect(&mint("castellum"));
    assert_eq!(code(&good), 0, "{}", String::from_utf8_lossy(&good.stderr));
    let answer = json(&good);
    assert_eq!(answer["verdict"]["result"], "valid");
    assert_eq!(answer["claims"]["assets"], serde_json::json!(["film"]));

    let refused = inspect(&mint("elsewhere"));
    assert_eq!(code(&refused), 6);
    assert_eq!(json(&refused)["verdict"]["result"], "refused");
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("check-config"),
            "{shell}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        code(&run(&["man", "--dir", folder.path().to_str().unwrap()])),
        0
    );
    assert!(folder.path().join("castellum.1").exists());
    assert!(folder.path().join("castellum-keystore-init.1").exists());
}

/// A process of ours, killed should the test fail.
struct Running(Child);

impl Running {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(url: &str) -> (u16, String) {
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let response = String::from_utf8_lossy(&response).into_owned();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let body = response
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body)
        .to_owned();
    (status, body)
}

#[test]
fn the_demo_plays_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = castellum()
        .env("TMPDIR", temporary.path())
        .args(["demo", "--json", "--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut running = Running(child);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let demo: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(demo["schema"], 1);

    for asset in demo["assets"].as_array().unwrap() {
        let policies: Vec<_> = asset["streams"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stream| stream["policy"].as_str().unwrap())
            .collect();
        assert_eq!(policies, ["cbcs", "cbcs-identity", "cenc", "clear"]);
        for stream in asset["streams"].as_array().unwrap() {
            assert!(
                get(stream["hls"].as_str().unwrap())
                    .1
                    .starts_with("#EXTM3U")
            );
            assert!(get(stream["dash"].as_str().unwrap()).1.contains("<MPD"));
        }
    }
    assert_eq!(get(demo["page"].as_str().unwrap()).0, 200);
    let admin = demo["admin"].as_str().unwrap();
    assert_eq!(get(&format!("{admin}/readyz")).0, 200);
    let (_, again) = get(&format!("{admin}/api/v1/demo"));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["assets"], demo["assets"]);
    let ca = PathBuf::from(demo["ca"].as_str().unwrap());
    assert!(
        fs::read_to_string(&ca)
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let folder = ca.parent().unwrap().to_owned();
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );

    running.signal("-INT");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "one line and no more");
    let left: Vec<_> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// What a configuration of the test's own asks for, at ports that are free now.
fn serving(folder: &Path) -> (PathBuf, u16) {
    let ports = [(); 5].map(|()| port::free().unwrap());
    fs::create_dir_all(folder.join("media/film")).unwrap();
    let title = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/title");
    for name in ["castellum-180.mp4", "castellum-eng.mp4"] {
        fs::copy(title.join(name), folder.join("media/film").join(name)).unwrap();
    }
    fs::write(folder.join("passphrase"), "correct horse battery staple\n").unwrap();
    let config = configured(
        folder,
        &format!(
            "argon2.memory = \"19MiB\"\nargon2.passes = 1\n\
             [drain]\ndelay = \"0ms\"\ntimeout = \"2s\"\n\
             [origin.tls]\nlisten = \"127.0.0.1:{}\"\n[origin.plain]\nlisten = \"127.0.0.1:{}\"\n\
             [origin.admin]\nlisten = \"127.0.0.1:{}\"\n\
             [license.tls]\nlisten = \"127.0.0.1:{}\"\n[license.admin]\nlisten = \"127.0.0.1:{}\"\n\
             [tenants.default]\nallow_clear = true\nallow_clear_key = true\n",
            ports[0], ports[1], ports[2], ports[3], ports[4]
        ),
    );
    (config, ports[1])
}

/// Tries until `done`; the daemon takes its time to start.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_daemon_is_sealed_until_it_is_unsealed_and_drains_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let (config, plain) = serving(folder.path());
    let config = config.to_str().unwrap();
    let passphrase = folder.path().join("passphrase");
    let passphrase = passphrase.to_str().unwrap();
    let child = castellum()
        .args(["serve", "-c", config])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut running = Running(child);

    eventually("the daemon answers", || {
        code(&run(&["health", "-c", config])) == 5
    });
    let url = |policy: &str| format!("http://127.0.0.1:{plain}/v1/film/{policy}/main.m3u8");
    eventually("clear plays while sealed", || get(&url("clear")).0 == 200);
    let (status, body) = get(&url("cbcs"));
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("sealed"), "{body}");

    let verb = |verb: &[&str]| run(&[verb, &["-c", config, "--json"]].concat());
    assert_eq!(
        json(&verb(&["keystore", "status"]))["state"],
        "uninitialised"
    );
    let made = verb(&["keystore", "init", "--passphrase-file", passphrase]);
    assert_eq!(code(&made), 0, "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(code(&run(&["health", "-c", config])), 0);
    eventually("encrypted plays", || get(&url("cbcs")).0 == 200);

    let keys = json(&verb(&["key", "list"]));
    let keys = keys["keys"].as_array().unwrap();
    let labels: Vec<_> = keys
        .iter()
        .map(|key| key["context"]["label"].as_str().unwrap())
        .collect();
    assert!(
        labels.contains(&"audio") && labels.contains(&"sd"),
        "{labels:?}"
    );
    assert_eq!(code(&verb(&["keystore", "verify"])), 0);
    let rotated = json(&verb(&["keystore", "rotate", "--tenant", "default"]));
    assert_eq!(rotated["keks"][0]["version"], 2);
    let changed = folder.path().join("new-passphrase");
    fs::write(&changed, "battery staple\n").unwrap();
    let rotated = json(&verb(&[
        "keystore",
        "rotate",
        "--root",
        "--passphrase-file",
        passphrase,
        "--new-passphrase-file",
        changed.to_str().unwrap(),
    ]));
    assert_eq!(rotated["root"], 2);
    offline_audit::verify(
        &verb,
        &folder.path().join("keystore/audit.log"),
        folder.path(),
    );

    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/title/castellum-360.mp4");
    let ingested = verb(&["ingest", clip.to_str().unwrap(), "--asset", "clip"]);
    assert_eq!(
        code(&ingested),
        0,
        "{}",
        String::from_utf8_lossy(&ingested.stderr)
    );
    let report = json(&ingested);
    assert_eq!(report["asset"], "clip");
    assert!(report["segments"].as_u64().unwrap() > 1);

    assert_eq!(code(&verb(&["keystore", "seal"])), 0);
    assert_eq!(code(&run(&["health", "-c", config])), 5);
    let old = verb(&["keystore", "unseal", "--passphrase-file", passphrase]);
    assert_eq!(code(&old), 1);
    let typed = fs::read_to_string(changed).unwrap();
    let unsealed = run_with_input(&["keystore", "unseal", "-c", config], &typed);
    assert_eq!(
        code(&unsealed),
        0,
        "{}",
        String::from_utf8_lossy(&unsealed.stderr)
    );

    running.signal("-TERM");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn three_processes_serve_as_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let (config, plain) = serving(folder.path());
    let passphrase = folder.path().join("passphrase");
    // Every process of the test is one user: the two callers are then told apart by nothing but their socket.
    let uid = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap();
    let callers = format!(
        "[keystore.callers.all]\nuser = {:?}\nmay = [\"lease\", \"export\"]\n",
        uid.trim()
    );
    let admin = port::free().unwrap();
    let admin_of_keystore = format!("[keystore.admin]\nlisten = \"127.0.0.1:{admin}\"\n");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}{callers}{admin_of_keystore}")).unwrap();
    let config = config.to_str().unwrap();
    let start = |role: &str| {
        let child = castellum()
            .env("CASTELLUM__KEYSTORE__PASSPHRASE_FILE", &passphrase)
            .env("CASTELLUM__KEYSTORE__INIT_AT_START", "true")
            .args(["serve", "--role", role, "-c", config])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Running(child)
    };
    let mut running = ["keystore", "license", "origin"].map(start);
    for role in ["keystore", "license", "origin"] {
        eventually(role, || {
            code(&run(&["health", "--role", role, "-c", config])) == 0
        });
    }
    let url = format!("http://127.0.0.1:{plain}/v1/film/cenc/main.mpd");
    eventually("encrypted plays", || get(&url).0 == 200);
    // Its alarms can be hung on a process of its own, too.
    let (status, metrics) = get(&format!("http://127.0.0.1:{admin}/metrics"));
    assert_eq!(status, 200);
    for metric in [
        "castellum_keystore_unsealed 1",
        "castellum_keystore_ops_total{op=\"lease\",result=\"ok\"}",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    for role in &mut running {
        role.signal("-TERM");
    }
    for role in &mut running {
        assert_eq!(role.0.wait().unwrap().code(), Some(0));
    }
}

/// Starts a demo with these arguments and waits until it says its links.
fn demo(temporary: &Path, args: &[&str]) -> (Running, Value) {
    let mut child = castellum()
        .env("TMPDIR", temporary)
        .args(["demo", "--json", "--port", "0"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    (running, serde_json::from_str(&line).unwrap())
}

#[test]
fn a_second_demo_leaves_the_kept_folder_of_the_first_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = temporary.path().join("kept");
    let kept = kept.to_str().unwrap();
    let (mut first, links) = demo(temporary.path(), &["--keep", kept]);
    let ca = links["ca"].as_str().unwrap();
    let before = fs::read(ca).unwrap();

    let second = run(&["demo", "--keep", kept, "--port", "0"]);
    assert_eq!(code(&second), 1);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another demo runs in"), "{said}");
    assert_eq!(fs::read(ca).unwrap(), before);
    assert_eq!(get(links["page"].as_str().unwrap()).0, 200);

    first.signal("-QUIT");
    assert_eq!(first.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_killed_demo_is_swept_up_by_the_next_which_a_hangup_ends_in_order() {
    let temporary = tempfile::tempdir().unwrap();
    let left = || fs::read_dir(temporary.path()).unwrap().count();
    let (mut killed, _) = demo(temporary.path(), &[]);
    killed.signal("-KILL");
    killed.0.wait().unwrap();
    assert_eq!(left(), 1);
    let (mut next, _) = demo(temporary.path(), &[]);
    assert_eq!(left(), 1, "its own folder and no other");
    next.signal("-HUP");
    assert_eq!(next.0.wait().unwrap().code(), Some(0));
    assert_eq!(left(), 0);
}

#[test]
fn a_demo_without_a_title_fails_with_every_reason() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().to_str().unwrap();
    let demo = || run(&["demo", "--media", media, "--port", "0", "--json"]);
    let empty = demo();
    assert_eq!(code(&empty), 1);
    let said = String::from_utf8_lossy(&empty.stderr);
    assert!(said.contains("there is no title to play in"), "{said}");

    fs::write(folder.path().join("film.mp4"), "no film").unwrap();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    let unfit = demo();
    assert_eq!(code(&unfit), 1);
    let said = String::from_utf8_lossy(&unfit.stderr);
    for reason in ["notes.txt: not an .mp4 file", "film: "] {
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn check_config_looks_into_keys_and_the_log_filter() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let issuer = |name: &str, algorithm: &str| {
        format!(
            "[[license.issuers]]\nname = {name:?}\nissuer = {name:?}\naudience = \"castellum\"\n\
             algorithm = {algorithm:?}\nkey_file = {:?}\n",
            at(name)
        )
    };
    let secret = folder.path().join("open");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let check = |more: &str| {
        let config = configured(folder.path(), more);
        run(&["check-config", "--json", "-c", config.to_str().unwrap()])
    };

    let sound = json(&check(&issuer("open", "HS256")));
    assert_eq!(sound["ok"], true);
    let warnings = sound["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].as_str().unwrap().contains("every user"));

    fs::copy(&secret, folder.path().join("kind")).unwrap();
    let faulty = [
        issuer("missing", "HS256"),
        issuer("kind", "ES256"),
        "[log]\nfilter = \"origin=loud\"\n".to_owned(),
    ];
    let output = check(&faulty.concat());
    assert_eq!(code(&output), 3);
    let answer = json(&output);
    let findings = answer["findings"].as_array().unwrap();
    let keys: Vec<_> = findings
        .iter()
        .map(|finding| finding["key"].as_str().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "license.issuers[0].key_file",
            "license.issuers[1].key_file",
            "log.filter"
        ]
    );
    assert!(findings.iter().all(|finding| finding["line"].is_u64()));
}

#[test]
fn help_says_which_configuration_is_read() {
    for verb in [&["serve"][..], &["check-config"], &["config", "dump"]] {
        let text = String::from_utf8(run(&[verb, &["--help"]].concat()).stdout).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("/etc/castellum/castellum.toml if it exists"),
            "{verb:?}: {text}"
        );
    }
}
