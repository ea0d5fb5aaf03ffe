//! The origin that is measured: a release build with a configuration, state and keystore of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use url::Url;

use super::Failure;
use super::cores::Cores;
use super::probe;
use super::process::Process;
use crate::host::Processes;
use crate::manifest::{Track, dash};
use crate::port;
use crate::token::{Algorithm, Minter};

/// How the origin is set up.
pub(super) struct Setup<'a> {
    /// The binary.
    pub(super) program: &'a Path,
    /// Where it runs.
    pub(super) cores: Cores,
    /// Its titles.
    pub(super) media: &'a Path,
    /// Its state, made where it is not there.
    pub(super) folder: &'a Path,
    /// What `origin.cache.manifests` says.
    pub(super) manifests: &'a str,
    /// Whether it gives licences, too.
    pub(super) licences: bool,
}

/// A running origin, with a keystore in its process.
pub(super) struct Castellum {
    process: Process,
    program: PathBuf,
    config: PathBuf,
    certificate: PathBuf,
    /// The port of its plain listener.
    pub(super) plain: u16,
    /// The port of its TLS and QUIC listeners.
    pub(super) tls: u16,
    /// The port of the licence server's TLS and QUIC listeners, where it has one.
    pub(super) license: u16,
    admin: u16,
    es256: Minter,
    hs256: Minter,
}

/// For whom its tokens are; each algorithm has an issuer of its own.
const AUDIENCE: &str = "castellum";

/// A server is idle when it uses less than this share of a core over this long.
const IDLE_SHARE: f64 = 0.02;
const IDLE_WINDOW: Duration = Duration::from_millis(200);
/// Reading two gigabytes once takes less.
const IDLE_WITHIN: Duration = Duration::from_secs(120);

/// Two of `origin.scan_interval`, and some.
const SCANS: Duration = Duration::from_secs(5);

impl Castellum {
    /// Starts it, and waits until it is ready.
    pub(super) fn start(setup: &Setup<'_>) -> Result<Self, Failure> {
        let folder = setup.folder;
        let here = |error| Failure::at(folder, error);
        fs::create_dir_all(folder).map_err(here)?;
        let passphrase = folder.join("passphrase");
        write_secret(&passphrase, "what is measured is no secret\n").map_err(here)?;
        let ports = (|| Ok([port::free()?, port::free()?, port::free()?, port::free()?]))();
        let ports @ [plain, tls, license, admin] = ports.map_err(here)?;
        let (es256, hs256) = issuers(folder)?;
        let config = folder.join("castellum.toml");
        let user = user().map_err(here)?;
        let text = config_text(setup, ports, &user);
        fs::write(&config, text).map_err(here)?;

        let roles = match setup.licences {
            true => "keystore,origin,license",
            false => "keystore,origin",
        };
        let mut command = setup.cores.server_command(setup.program);
        command
            .args(["serve", "--role", roles, "--config"])
            .arg(&config);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CASTELLUM") {
                command.env_remove(name);
            }
        }
        let mut process = Process::start(command, &folder.join("castellum.log"))?;
        process.until(|| probe::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200))?;
        Ok(Self {
            process,
            program: setup.program.to_owned(),
            config,
            certificate: folder.join("origin/self-signed.pem"),
            plain,
            tls,
            license,
            admin,
            es256,
            hs256,
        })
    }

    /// Mints tokens that its licence server takes.
    pub(super) fn minter(&self, algorithm: Algorithm) -> &Minter {
        match algorithm {
            Algorithm::Es256 => &self.es256,
            Algorithm::Hs256 => &self.hs256,
        }
    }

    /// The key of the first picture of an asset under a policy, in base64url, as its MPD names it.
    pub(super) fn key_id(&self, asset: &str, policy: &str) -> Result<String, Failure> {
        let path = format!("/v1/{asset}/{policy}/main.mpd");
        let failed = |error: &dyn std::fmt::Display| Failure::asking(&path, error);
        let answer = probe::get(self.plain, &path).map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&answer.body);
        let named = text.split("default_KID=\"").nth(1);
        let named = named.and_then(|rest| rest.split('"').next());
        let digits: String = named.unwrap_or_default().replace('-', "");
        let bytes: Result<Vec<u8>, _> = (0..16)
            .map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2).unwrap_or(""), 16))
            .collect();
        let bytes = bytes.map_err(|_| failed(&"it names no key"))?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Its process.
    pub(super) fn processes(&self) -> Processes {
        Processes::of([self.process.id()])
    }

    /// Bytes that were fetched from the disk for it, by itself or ahead of it.
    pub(super) fn disk(&self) -> Result<u64, Failure> {
        let path = PathBuf::from(format!("/proc/{}/io", self.process.id()));
        let text = fs::read_to_string(&path).map_err(|error| Failure::at(&path, error))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("read_bytes: "));
        line.and_then(|bytes| bytes.parse().ok())
            .ok_or_else(|| Failure::at(&path, io::ErrorKind::InvalidData.into()))
    }

    /// Its certificate and private key, in one file.
    pub(super) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Writes an asset's files under these policies into `folder`.
    pub(super) fn export(
        &self,
        asset: &str,
        policies: &[&str],
        folder: &Path,
    ) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.args(["export", asset]).arg(folder);
        for policy in policies {
            command.args(["--policy", policy]);
        }
        let output = command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::at(&self.program, error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::Export {
            asset: asset.to_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Waits until it has nothing more to do: titles that were opened are read in full in the background.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        let processes = self.processes();
        let unreadable = |error| Failure::at(Path::new("/proc"), error);
        let deadline = Instant::now() + IDLE_WITHIN;
        let mut still = 0;
        while still < 2 {
            let start = processes.snapshot().map_err(unreadable)?;
            std::thread::sleep(IDLE_WINDOW);
            let used = processes.usage_since(&start).map_err(unreadable)?.cpu;
            still = if used < IDLE_WINDOW.mul_f64(IDLE_SHARE) {
                still + 1
            } else {
                0
            };
            if Instant::now() > deadline {
                return Err(Failure::Restless);
            }
        }
        Ok(())
    }

    /// Waits until it has looked through its media root again, twice by default in this time.
    pub(super) fn settle_for_scans(&self) {
        std::thread::sleep(SCANS);
    }

    /// Reads something from the admin listener.
    pub(super) fn admin(&self, path: &str) -> Result<String, Failure> {
        let answer = probe::get(self.admin, path).map_err(|error| Failure::asking(path, error))?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The pictures of an asset under a policy, as its MPD lists them.
    pub(super) fn pictures(&self, asset: &str, policy: &str) -> Result<Vec<Track>, Failure> {
        let path = format!("/v1/{asset}/{policy}/main.mpd");
        let failed = |error: &dyn std::fmt::Display| Failure::asking(&path, error);
        let url = format!("http://127.0.0.1:{}{path}", self.plain);
        let url = Url::parse(&url).map_err(|error| failed(&error))?;
        let answer = probe::get(self.plain, &path).map_err(|error| failed(&error))?;
        if answer.status != 200 {
            return Err(failed(&format!("status {}", answer.status)));
        }
        let text = String::from_utf8_lossy(&answer.body);
        let menu = dash::read(&url, &text).map_err(|error| failed(&error))?;
        Ok(menu.main)
    }
}

/// Whose tokens the licence server takes. The keys lie in the folder.
fn issuers(folder: &Path) -> Result<(Minter, Minter), Failure> {
    let here = |error| Failure::at(folder, error);
    let unfit = |error| Failure::at(folder, io::Error::other(error));
    let secret = "what is measured is no secret, and has 256 bits or more";
    write_secret(&folder.join("hs256.key"), secret).map_err(here)?;
    let pem = Minter::key_for_es256().map_err(unfit)?;
    let minter = |algorithm: Algorithm, key: &str| {
        let issuer = format!("bench-{}", algorithm.name());
        Minter::new(algorithm, &issuer, AUDIENCE, key.as_bytes())
    };
    let es256 = minter(Algorithm::Es256, &pem).map_err(unfit)?;
    let jwk = es256.public_key().unwrap_or_default();
    fs::write(folder.join("es256.jwk"), jwk).map_err(here)?;
    Ok((es256, minter(Algorithm::Hs256, secret).map_err(unfit)?))
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    file.open(path)?.write_all(text.as_bytes())
}

/// The name of the user who runs this.
fn user() -> io::Result<String> {
    let output = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// One worker, no access log, every default else.
fn config_text(
    setup: &Setup<'_>,
    [plain, tls, license_tls, admin]: [u16; 4],
    user: &str,
) -> String {
    let at = |name: &str| setup.folder.join(name);
    format!(
        r#"runtime_dir = {runtime:?}
[log]
format = "text"
filter = "warn"
access = false
[drain]
delay = "0s"
timeout = "1s"
[origin]
media_root = {media:?}
state_dir = {state:?}
cache_dir = {cache:?}
settle = "0s"
workers = 1
[origin.tls]
listen = "127.0.0.1:{tls}"
[origin.plain]
listen = "127.0.0.1:{plain}"
[origin.admin]
listen = "127.0.0.1:{admin}"
[origin.cache]
manifests = "{manifests}"
[license]
public_url = "http://license.invalid"
state_dir = {license:?}
workers = 1
[license.tls]
listen = "127.0.0.1:{license_tls}"
[[license.issuers]]
name = "es256"
issuer = "bench-ES256"
audience = "{AUDIENCE}"
algorithm = "ES256"
key_file = {es256:?}
[[license.issuers]]
name = "hs256"
issuer = "bench-HS256"
audience = "{AUDIENCE}"
algorithm = "HS256"
key_file = {hs256:?}
[keystore]
state_dir = {keystore:?}
passphrase_file = {passphrase:?}
init_at_start = true
[keystore.budget]
uses = 100000000
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
user = "{user}"
may = ["operate", "audit"]
[tenants.default]
allow_clear = true
allow_clear_key = true
"#,
        runtime = at("run"),
        media = setup.media,
        state = at("origin"),
        cache = at("cache"),
        manifests = setup.manifests,
        license = at("license"),
        es256 = at("es256.jwk"),
        hs256 = at("hs256.key"),
        keystore = at("keystore"),
        passphrase = at("passphrase"),
    )
}
