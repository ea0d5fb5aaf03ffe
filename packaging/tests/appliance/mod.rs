//! The appliance as its users meet it: processes of the real binary, asked with curl.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde_json::Value;

/// How long anything may take to come about before the test says that it did not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The binary, deaf to the environment of whoever runs the tests but for `TRIED_SETTINGS`: such as
/// `ORIGIN__STORAGE__MODE=read ORIGIN__CIPHERS=portable`, under which a suite is then run.
pub fn castellum() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_castellum"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CASTELLUM") {
            command.env_remove(name);
        }
    }
    let tried = std::env::var("TRIED_SETTINGS").unwrap_or_default();
    for (name, value) in tried
        .split(' ')
        .filter_map(|setting| setting.split_once('='))
    {
        command.env(format!("CASTELLUM__{name}"), value);
    }
    command.stdin(Stdio::null());
    command
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `castellum demo`.
pub struct Demo {
    /// The process, which ends with this.
    pub process: Running,
    /// The line it printed.
    pub json: Value,
}

impl Demo {
    /// Starts it on free ports; `args` are added. Everything it says goes to `castellum.log` in `folder`.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let log = fs::File::create(folder.join("castellum.log")).unwrap();
        let mut child = castellum()
            .args(["demo", "--json", "--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let process = Running(child);
        let json = serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = fs::read_to_string(folder.join("castellum.log")).unwrap_or_default();
            panic!("the demo printed {line:?} ({error}); its log:\n{log}")
        });
        Self { process, json }
    }

    /// One of the addresses of the line.
    pub fn base(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap()
    }

    /// The names of its assets.
    pub fn assets(&self) -> Vec<String> {
        let assets = self.json["assets"].as_array().unwrap();
        assets
            .iter()
            .map(|asset| asset["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The key of a key id, by the front door.
    pub fn key(&self, asset: &str, key_id: &str) -> Vec<u8> {
        let url = format!("{}/license/hls/{asset}/{key_id}", self.base("license"));
        let answer = curl(&[
            "-H",
            &format!("Authorization: Bearer {}", self.base("token")),
            &url,
        ]);
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        assert_eq!(answer.body.len(), 16);
        answer.body
    }
}

/// An answer as curl saw it.
#[derive(Debug)]
pub struct Answer {
    /// curl's exit code: 0 only for a whole answer.
    pub exit: i32,
    /// The status; 0 if none came.
    pub status: u16,
    /// The protocol as curl names it: `1.1`, `2`, `3`.
    pub protocol: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What came of the body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, which must be whole and a success.
    pub fn whole(self) -> Vec<u8> {
        assert_eq!((self.exit, self.status), (0, 200), "{}", self.text());
        self.body
    }
}

/// Asks with curl and waits for the end.
pub fn curl(args: &[&str]) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let output = curl_command(folder.path(), args)
        .output()
        .expect("curl is installed");
    answer(folder.path(), &output)
}

/// A curl that is still receiving.
pub struct Receiving {
    folder: tempfile::TempDir,
    child: Child,
}

impl Receiving {
    /// Begins to ask.
    pub fn begin(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = curl_command(folder.path(), args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is installed");
        Self { folder, child }
    }

    /// Begins to ask over HTTP/3, at most so many bytes a second; `None` without the client.
    pub fn begin_http3(url: &str, rate: u64) -> Option<Self> {
        let python = project().join("target/setup/python/bin/python");
        let tried = Command::new(&python)
            .args(["-c", "import curl_cffi"])
            .stderr(Stdio::null())
            .status();
        if !tried.is_ok_and(|status| status.success()) {
            assert!(
                std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
                "no HTTP/3 client"
            );
            eprintln!("skipped: HTTP/3: no curl_cffi (`make setup` sees to it)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(python)
            .arg(project().join("packaging/tests/http3_client.py"))
            .arg(url)
            .arg(folder.path().join("body"))
            .arg(rate.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self { folder, child })
    }

    /// Waits until so many bytes of the body have come.
    pub fn until(&self, bytes: u64) {
        wait_for("a part of the body", || {
            fs::metadata(self.folder.path().join("body"))
                .is_ok_and(|metadata| metadata.len() >= bytes)
        });
    }

    /// Makes the client take nothing more, until [`Receiving::resume`].
    pub fn pause(&self) {
        signal(&self.child, "STOP");
    }

    /// Lets the client go on.
    pub fn resume(&self) {
        signal(&self.child, "CONT");
    }

    /// Waits for the end.
    pub fn end(self) -> Answer {
        let Self { folder, child } = self;
        answer(folder.path(), &child.wait_with_output().unwrap())
    }
}

fn curl_command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--no-buffer",
            "--max-time",
            "120",
            "--write-out",
            "%{http_code} %{http_version}",
        ])
        .arg("--dump-header")
        .arg(folder.join("head"))
        .arg("--output")
        .arg(folder.join("body"))
        .args(args)
        .stdin(Stdio::null());
    command
}

fn answer(folder: &Path, output: &Output) -> Answer {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, protocol) = said.split_once(' ').unwrap_or(("0", ""));
    let head = fs::read(folder.join("head")).unwrap_or_default();
    let headers = String::from_utf8_lossy(&head)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Answer {
        exit: output.status.code().unwrap_or(-1),
        status: status.parse().unwrap_or_default(),
        protocol: protocol.to_owned(),
        headers,
        body: fs::read(folder.join("body")).unwrap_or_default(),
    }
}

/// A representation of an MPD, with absolute URLs.
#[derive(Clone, Debug)]
pub struct Representation {
    /// Its id.
    pub id: String,
    /// The key id of its adaptation set, if protected.
    pub key_id: Option<String>,
    /// Its init segment.
    pub init: String,
    /// Its segments.
    pub segments: Vec<String>,
}

/// The representations of an MPD that was found at `url`.
pub fn representations(url: &str, mpd: &str) -> Vec<Representation> {
    let base = url.rsplit_once('/').unwrap().0;
    let mut found = Vec::new();
    for set in mpd.split("<AdaptationSet ").skip(1) {
        let key_id = attribute(set, "cenc:default_KID").map(str::to_owned);
        for representation in set.split("<Representation ").skip(1) {
            let count: usize = representation
                .split("<S ")
                .skip(1)
                .map(|run| {
                    1 + attribute(run, "r").map_or(0, |repeat| repeat.parse::<usize>().unwrap())
                })
                .sum();
            let media = attribute(representation, "media").unwrap();
            found.push(Representation {
                id: attribute(representation, "id").unwrap().to_owned(),
                key_id: key_id.clone(),
                init: resolve(base, attribute(representation, "initialization").unwrap()),
                segments: (1..=count)
                    .map(|number| resolve(base, &media.replace("$Number$", &number.to_string())))
                    .collect(),
            });
        }
    }
    found
}

/// The value of an attribute of the first tag of `text`'s that has it.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

fn resolve(base: &str, relative: &str) -> String {
    let mut base = base;
    let mut relative = relative;
    while let Some(rest) = relative.strip_prefix("../") {
        relative = rest;
        base = base.rsplit_once('/').unwrap().0;
    }
    format!("{base}/{relative}")
}

/// Waits until something is so.
///
/// # Panics
/// After [`PATIENCE`].
pub fn wait_for(what: &str, so: impl FnMut() -> bool) {
    assert!(within(PATIENCE, so), "waited in vain for {what}");
}

/// Whether something comes to be so in time.
pub fn within(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if so() {
            return true;
        }
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a process of ours.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name}");
}

/// A port for a server to listen on, as [`loadtest::port::free`] chooses it.
pub fn free_port() -> u16 {
    loadtest::port::free().unwrap()
}

/// An installation: configuration, state and media in a folder, started role by role.
pub struct Node {
    /// Where everything lies: `media`, `origin`, `cache`, `keystore`.
    pub folder: PathBuf,
    /// The origin's plain listener.
    pub origin: String,
    /// The origin's TLS listener.
    pub origin_tls: String,
    /// The origin's admin listener.
    pub admin: String,
    config: PathBuf,
    log: PathBuf,
    processes: Mutex<Vec<OwnedFd>>,
}

impl Node {
    /// Writes a configuration into `folder`. Its keystore's sockets lie in `sockets`, so that two nodes can share one.
    pub fn new(folder: &Path, sockets: &Path) -> Self {
        let (plain, tls, admin) = (free_port(), free_port(), free_port());
        for name in ["media", "origin", "cache", "keystore", "license"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        fs::create_dir_all(sockets).unwrap();
        let passphrase = folder.join("passphrase");
        fs::write(&passphrase, "a passphrase of the tests\n").unwrap();
        restrict(&passphrase);
        let at = |name: &str| folder.join(name);
        let text = format!(
            r#"
runtime_dir = {runtime:?}
[drain]
delay = "0s"
timeout = "5s"
[origin]
media_root = {media:?}
state_dir = {state:?}
cache_dir = {cache:?}
settle = "100ms"
scan_interval = "100ms"
workers = 2
[origin.tls]
listen = "127.0.0.1:{tls}"
[origin.plain]
listen = "127.0.0.1:{plain}"
[origin.admin]
listen = "127.0.0.1:{admin}"
[license]
public_url = "http://license.invalid"
state_dir = {license:?}
[license.tls]
listen = "off"
[license.plain]
listen = "127.0.0.1:0"
[license.admin]
listen = "off"
[keystore]
state_dir = {keystore:?}
passphrase_file = {passphrase:?}
init_at_start = true
[keystore.argon2]
memory = "19MiB"
passes = 1
lanes = 1
[keystore.callers.origin]
user = "daemon"
may = ["lease"]
[keystore.callers.license]
user = "bin"
may = ["export"]
[keystore.callers.operator]
user = {user:?}
may = ["lease", "export", "operate", "audit"]
[packs.cbcs]
scheme = "cbcs"
[packs.cenc]
scheme = "cenc"
[packs.clear]
scheme = "clear"
[policies.cbcs]
pack = "cbcs"
systems = ["clearkey"]
[policies.cenc]
pack = "cenc"
systems = ["clearkey"]
hls_clear_key = "both"
[policies.clear]
pack = "clear"
[tenants.default]
allow_clear = true
allow_clear_key = true
"#,
            runtime = sockets,
            media = at("media"),
            state = at("origin"),
            cache = at("cache"),
            license = at("license"),
            keystore = at("keystore"),
            user = user(),
        );
        let config = folder.join("castellum.toml");
        fs::write(&config, text).unwrap();
        Self {
            folder: folder.to_owned(),
            origin: format!("http://127.0.0.1:{plain}"),
            origin_tls: format!("https://127.0.0.1:{tls}"),
            admin: format!("http://127.0.0.1:{admin}"),
            config,
            log: folder.join("castellum.log"),
            processes: Mutex::default(),
        }
    }

    /// A command line of the binary with this node's configuration.
    pub fn command(&self, verb: &[&str]) -> Command {
        let mut command = castellum();
        command.args(verb).arg("--config").arg(&self.config);
        command
    }

    /// Starts roles in one process, without waiting. What it says is added to the node's log.
    pub fn spawn(&self, roles: &str) -> Running {
        self.spawn_by(self.command(&["serve", "--role", roles]))
    }

    /// Starts what `command` says as a role of this node.
    pub fn spawn_by(&self, mut command: Command) -> Running {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        self.processes.lock().unwrap().push(process);
        Running(child)
    }

    /// Whether one of its processes ended by itself: it waits to be waited for.
    fn has_died(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let processes = self.processes.lock().unwrap();
        (processes.iter())
            .any(|process| matches!(waitid(WaitId::PidFd(process.as_fd()), look), Ok(Some(_))))
    }

    /// Starts the origin, with the keystore in its process or without it, and waits until it answers.
    pub fn start(&self, roles: &str) -> Running {
        let running = self.spawn(roles);
        self.wait_until_it_answers();
        running
    }

    /// Waits until the origin's listener answers.
    pub fn wait_until_it_answers(&self) {
        self.wait_for("the origin to answer", || {
            curl(&[&format!("{}/", self.origin)]).status == 400
        });
    }

    /// Waits until something is so, and tells what the node said if it never is, or if a process of the node ends first.
    pub fn wait_for(&self, what: &str, mut so: impl FnMut() -> bool) {
        let mut is_so = false;
        let mut died = false;
        within(PATIENCE, || {
            // In this order: what it did last counts.
            died = self.has_died();
            is_so = so();
            is_so || died
        });
        if !is_so {
            let why = if died { ", as it has ended" } else { "" };
            panic!(
                "waited in vain for {what}{why}; the node said:\n{}",
                self.log()
            );
        }
    }

    /// Everything that this node has said.
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// The MPD of an asset under a policy, once there is one, with the address it was found at.
    pub fn mpd(&self, asset: &str, policy: &str) -> (String, String) {
        let url = format!("{}/v1/{asset}/{policy}/main.mpd", self.origin);
        let mut last = None;
        self.wait_for(&url, || {
            let answer = curl(&[&url]);
            let found = answer.status == 200;
            last = Some(answer.text());
            found
        });
        (url, last.unwrap())
    }
}

/// The user who runs the tests.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes a file its owner's alone.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
