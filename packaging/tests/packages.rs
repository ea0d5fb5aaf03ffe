//! The Debian package and the container image: made from this binary, run as they are meant to be run.
//!
//! What needs root is skipped without it, and says so. These tests do not see what an older systemd, another
//! distribution or a container engine's own rules would do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod machine;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use machine::Machine;

/// Roles and programs start within a second or two; a loaded host may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

const ROLES: [&str; 3] = ["keystore", "license", "origin"];

#[test]
fn units_are_as_confined_as_they_can_be() {
    if missing("systemd-analyze", "--version") {
        return;
    }
    // Ten times the exposure that `systemd-analyze security` finds: the measure of each unit's hardening.
    for (unit, threshold) in [
        ("castellum-keystore", 4),
        ("castellum-keystore-passphrase", 9),
        ("castellum-license", 11),
        ("castellum-origin", 11),
    ] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={threshold}"))
            .arg(packaging().join(format!("systemd/{unit}.service")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{unit}:\n{}", text(&output.stdout));
    }
}

#[test]
fn the_same_binary_gives_the_same_package() {
    if missing("dpkg-deb", "--version") {
        return;
    }
    let [first, second] = ["package-1", "package-2"].map(|name| deb(&folder(name)));
    if fs::read(&first).unwrap() != fs::read(&second).unwrap() {
        let listings = [&first, &second].map(|package| {
            ["--info", "--contents"].map(|of| must(Command::new("dpkg-deb").arg(of).arg(package)))
        });
        let [first, second] = listings.map(|[info, contents]| text(&info) + &text(&contents));
        panic!("two packages of one binary differ: {first}\n{second}");
    }

    let contents = text(&must(
        Command::new("dpkg-deb").arg("--contents").arg(&first),
    ));
    for path in [
        "/usr/bin/castellum",
        "/etc/castellum/castellum.toml",
        "/lib/systemd/system/castellum-keystore.service",
        "/lib/systemd/system/castellum-license.service",
        "/lib/systemd/system/castellum-origin.service",
        "/usr/lib/sysusers.d/castellum.conf",
        "/usr/share/man/man1/castellum.1.gz",
        "/usr/share/bash-completion/completions/castellum",
        "/usr/share/doc/castellum/copyright",
    ] {
        assert!(
            contents.contains(&format!(" .{path}\n")),
            "{path} is not in\n{contents}"
        );
    }
    let owned_by_others = contents.lines().find(|line| !line.contains(" root/root "));
    assert_eq!(owned_by_others, None);
    let conffiles = Command::new("dpkg-deb")
        .arg("--info")
        .arg(&first)
        .arg("conffiles")
        .output();
    assert_eq!(
        text(&conffiles.unwrap().stdout),
        "/etc/castellum/castellum.toml\n"
    );
}

#[test]
fn the_package_runs_three_roles_as_three_users_and_serves_a_title() {
    if not_root() || missing("dpkg-deb", "--version") {
        return;
    }
    if let Some(missing) = Machine::missing() {
        return skip(missing);
    }
    let package = deb(&folder("package-installed"));
    let machine = Machine::boot(&folder("machine"));
    fs::copy(&package, machine.path("/mnt/castellum.deb")).unwrap();
    machine.must(&["dpkg", "--install", "/mnt/castellum.deb"]);

    // What an operator does: films into the folder, an issuer and the tenant's leave into the configuration.
    let film = machine.path("/srv/castellum/media/film");
    copy_title(&film);
    fs::write(machine.path("/etc/castellum/shop.secret"), SECRET).unwrap();
    machine.must(&["chown", "castellum-license", "/etc/castellum/shop.secret"]);
    machine.must(&["chmod", "0400", "/etc/castellum/shop.secret"]);
    configure(&machine.path("/etc/castellum/castellum.toml"));
    machine.must(&[
        "systemctl",
        "restart",
        "castellum-origin",
        "castellum-license",
    ]);

    for role in ROLES {
        eventually(&format!("{role} is healthy"), || {
            let health = machine.run(&["castellum", "health", "-c", CONFIG, "--role", role]);
            health.status.success().then_some(())
        });
        let unit = format!("castellum-{role}");
        let process = machine.must(&["systemctl", "show", "--property=MainPID", "--value", &unit]);
        let user = machine.must(&["ps", "-o", "user:32=", "-p", process.trim()]);
        assert_eq!(user.trim(), unit);
    }
    let curl = |arguments: &[&str]| machine.run(&[&["curl"], arguments].concat());
    let kid = serves(&curl, "http://127.0.0.1:8080", "film");
    licenses(&curl, "https://127.0.0.1:8444", "film", kid);
    keystore_has_no_network(&machine);

    // What hardening must not take away: io_uring, locked memory, and a folder that `ingest` may write into.
    let journal = machine.must(&["journalctl", "--no-pager", "--unit=castellum-origin"]);
    assert!(journal.contains("\"cold_path\":\"io_uring\""), "{journal}");
    let status = machine.must(&["castellum", "keystore", "status", "-c", CONFIG]);
    assert!(status.contains("locked"), "{status}");
    let trailer = packaging().join("demo/title/castellum-360.mp4");
    fs::copy(trailer, machine.path("/mnt/trailer.mp4")).unwrap();
    machine.must(&[
        "castellum",
        "ingest",
        "/mnt/trailer.mp4",
        "--asset",
        "trailer",
        "-c",
        CONFIG,
    ]);
    serves(&curl, "http://127.0.0.1:8080", "trailer");

    // A keystore that dies comes back unsealed.
    machine.must(&["systemctl", "kill", "--signal=KILL", "castellum-keystore"]);
    eventually("the keystore is back", || {
        let health = machine.run(&["castellum", "health", "-c", CONFIG, "--role", "keystore"]);
        health.status.success().then_some(())
    });
    serves(&curl, "http://127.0.0.1:8080", "film");

    // The next version keeps what was edited; removal keeps the keys; purging leaves nothing but the films.
    machine.must(&["dpkg", "--force-confold", "--install", "/mnt/castellum.deb"]);
    eventually("the upgraded origin is healthy", || {
        let health = machine.run(&["castellum", "health", "-c", CONFIG]);
        health.status.success().then_some(())
    });
    let kept = fs::read_to_string(machine.path("/etc/castellum/castellum.toml")).unwrap();
    assert!(kept.contains("[[license.issuers]]\nname = \"shop\""));
    machine.must(&["dpkg", "--remove", "castellum"]);
    assert!(machine.path("/var/lib/castellum/keystore").exists());
    assert!(
        machine
            .path("/etc/castellum/credentials/keystore-passphrase")
            .exists()
    );
    machine.must(&["dpkg", "--purge", "castellum"]);
    for gone in [
        "/var/lib/castellum",
        "/var/cache/castellum",
        "/etc/castellum/credentials",
    ] {
        assert!(!machine.path(gone).exists(), "{gone} is left");
    }
    assert!(film.exists());
}

#[test]
fn the_image_serves_a_title_with_and_without_io_uring() {
    if not_root() || missing("buildah", "--version") || missing("cc", "--version") {
        return;
    }
    let image = Image::build();
    let inspected = text(&must(
        buildah().args(["inspect", "--type", "image", &image.id]),
    ));
    for fact in [
        "\"User\": \"65532:65532\"",
        "\"StopSignal\": \"SIGTERM\"",
        "Healthcheck",
    ] {
        assert!(inspected.contains(fact), "{fact} is not in\n{inspected}");
    }

    let refuse = folder("refuse").join("refuse_io_uring");
    let source = packaging().join("tests/refuse_io_uring.c");
    must(Command::new("cc").arg("-o").arg(&refuse).arg(source));
    image.serves_a_title(None, "uring");
    image.serves_a_title(Some(&refuse), "auto");

    // The filter is no straw man: told to use io_uring or nothing, the same image does not start under it.
    let container = image.container();
    let mut insisting = container.run(Some(&refuse), &[("ORIGIN__STORAGE", "uring")], &["serve"]);
    let status = eventually("the role gives up", || insisting.0.try_wait().unwrap());
    assert!(!status.success());
}

const CONFIG: &str = "/etc/castellum/castellum.toml";
const SECRET: &str = "a shared secret of thirty-two bytes or more";

/// Lets the default tenant hand out ClearKey licences and clear titles, and names an issuer of tokens.
fn configure(path: &Path) {
    let shipped = fs::read_to_string(path).unwrap();
    let allowed = shipped
        .replace("allow_clear = false", "allow_clear = true")
        .replace("allow_clear_key = false", "allow_clear_key = true");
    assert_ne!(shipped, allowed);
    let issuer = "\n[[license.issuers]]\nname = \"shop\"\nissuer = \"https://shop.example\"\n\
                  audience = \"castellum\"\nalgorithm = \"HS256\"\nkey_file = \"/etc/castellum/shop.secret\"\n";
    fs::write(path, allowed + issuer).unwrap();
}

/// Walks a protected title as an HLS player does, as far as the first segment; returns its key id.
fn serves(curl: &dyn Fn(&[&str]) -> Output, origin: &str, asset: &str) -> [u8; 16] {
    let get = |url: &str| {
        let output = curl(&["--silent", "--show-error", "--fail", url]);
        output.status.success().then_some(output.stdout)
    };
    let alias = format!("{origin}/v1/{asset}/cbcs/main.m3u8");
    let manifest = text(&eventually("the title is served", || get(&alias)));
    let playlist_url = join(&alias, manifest.lines().find(|line| is_uri(line)).unwrap());
    let playlist = text(&get(&playlist_url).expect(&playlist_url));
    let (_, map) = playlist.split_once("#EXT-X-MAP:URI=\"").expect(&playlist);
    let init = get(&join(&playlist_url, map.split('"').next().unwrap())).unwrap();
    assert!(find(&init, b"encv").is_some() && find(&init, b"cbcs").is_some());
    let segment_url = join(
        &playlist_url,
        playlist.lines().find(|line| is_uri(line)).unwrap(),
    );
    let segment = get(&segment_url).expect(&segment_url);
    assert!(find(&segment, b"moof").is_some() && find(&segment, b"mdat").is_some());
    // tenc: four letters, version and flags, two bytes of pattern, protected, IV size, then the key id.
    let tenc = find(&init, b"tenc").expect("the init segment has a tenc box");
    init[tenc + 12..tenc + 28].try_into().unwrap()
}

/// Asks for the licence of a key: with a token of the configured issuer, with one for another title, with none.
fn licenses(curl: &dyn Fn(&[&str]) -> Output, license: &str, asset: &str, kid: [u8; 16]) {
    let secret = folder("token").join("shop.secret");
    fs::write(&secret, SECRET).unwrap();
    let bearer = |asset: &str| {
        let mut mint = Command::new(env!("CARGO_BIN_EXE_castellum"));
        mint.args([
            "token",
            "mint",
            "--issuer",
            "https://shop.example",
            "--audience",
            "castellum",
        ]);
        let token = text(&must(mint.args(["--asset", asset, "--key"]).arg(&secret)));
        format!("Authorization: Bearer {}", token.trim())
    };
    let kid = BASE64_URL_SAFE_NO_PAD.encode(kid);
    let body = format!(r#"{{"kids":["{kid}"],"type":"temporary"}}"#);
    let url = format!("{license}/license/clearkey/{asset}");
    let ask = |header: &str| {
        let request = ["--silent", "--insecure", "--write-out", "\n%{http_code}"];
        let content = [
            "--header",
            header,
            "--header",
            "Content-Type: application/json",
        ];
        let output = curl(&[&request[..], &content[..], &["--data", &body, &url]].concat());
        let text = text(&output.stdout);
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
        (status.to_owned(), body.to_owned())
    };
    let (status, licence) = ask(&bearer(asset));
    assert_eq!(status, "200", "{licence}");
    assert!(licence.contains(&kid) && licence.contains("\"k\":"));
    assert_eq!(ask(&bearer("another")).0, "403");
    assert_eq!(ask("X-Nothing: here").0, "401");
}

/// The keystore's own network namespace holds nothing but a loopback interface that is down.
fn keystore_has_no_network(machine: &Machine) {
    let show = [
        "systemctl",
        "show",
        "--property=MainPID",
        "--value",
        "castellum-keystore",
    ];
    let process = machine.must(&show);
    let links = machine.must(&[
        "nsenter",
        "-n",
        "-t",
        process.trim(),
        "ip",
        "-brief",
        "link",
    ]);
    assert!(
        links.starts_with("lo ") && links.lines().count() == 1,
        "{links}"
    );
}

/// A container image with a static binary, in buildah's own storage.
struct Image {
    id: String,
}

impl Image {
    fn build() -> Self {
        let host = text(&must(Command::new(env!("CARGO")).args(["-vV"])));
        let triple = host
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .unwrap()
            .to_owned();
        must(
            Command::new(env!("CARGO"))
                .args([
                    "build",
                    "--quiet",
                    "--locked",
                    "--package",
                    "appliance",
                    "--target",
                    &triple,
                ])
                .arg("--target-dir")
                .arg(target())
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .current_dir(packaging()),
        );
        let binary = target().join(triple).join("debug/castellum");
        let build = packaging().join("container/build.sh");
        let id = text(&must(Command::new(build).arg(binary).arg("castellum:test")));
        Self {
            id: id.trim().to_owned(),
        }
    }

    fn container(&self) -> Container {
        // buildah has a filter of its own, which refuses io_uring too: here ours alone is to decide.
        let unconfined = ["--security-opt", "seccomp=unconfined"];
        let from = text(&must(
            buildah()
                .args(["from", "--quiet"])
                .args(unconfined)
                .arg(&self.id),
        ));
        let container = Container {
            name: from.trim().to_owned(),
            folder: folder("container"),
        };
        for part in ["media", "state", "cache", "run", "secrets"] {
            let path = container.folder.join(part);
            fs::create_dir(&path).unwrap();
            must(Command::new("chown").arg("65532:65532").arg(&path));
        }
        copy_title(&container.folder.join("media/film"));
        fs::write(container.folder.join("secrets/passphrase"), SECRET).unwrap();
        container
    }

    /// Starts it, asks for its health and for a title, and stops it as an engine does.
    fn serves_a_title(&self, launcher: Option<&Path>, storage: &str) {
        let container = self.container();
        let [plain, admin] =
            [(); 2].map(|()| format!("127.0.0.1:{}", loadtest::port::free().unwrap()));
        let settings = [
            ("ORIGIN__PLAIN__LISTEN", plain.as_str()),
            ("ORIGIN__ADMIN__LISTEN", admin.as_str()),
            ("ORIGIN__STORAGE__COLD", storage),
        ];
        let mut serving = container.run(launcher, &settings, &["serve"]);
        eventually("the container is healthy", || {
            assert_eq!(serving.0.try_wait().unwrap(), None, "the container ended");
            let mut health = container.run(None, &settings, &["health"]);
            health.0.wait().unwrap().success().then_some(())
        });
        let curl = |arguments: &[&str]| Command::new("curl").args(arguments).output().unwrap();
        serves(&curl, &format!("http://{plain}"), "film");

        let process =
            descendant(serving.0.id(), "castellum").expect("castellum runs below buildah");
        must(Command::new("kill").args(["-s", "TERM", &process.to_string()]));
        let status = eventually("the container stops", || serving.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = buildah().args(["rmi", "--force", &self.id]).output();
    }
}

/// One container of an image, with folders of its own on the host.
struct Container {
    name: String,
    folder: PathBuf,
}

impl Container {
    /// Runs one process in it, as the image's user. Listeners that are not set take free ports.
    fn run(&self, launcher: Option<&Path>, settings: &[(&str, &str)], verb: &[&str]) -> Running {
        let buildah = buildah();
        let mut command = match launcher {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.arg(buildah.get_program());
                command
            }
            None => Command::new(buildah.get_program()),
        };
        command
            .args(buildah.get_args())
            .args(["run", "--isolation", "chroot"]);
        for (part, inside) in [
            ("media", "/srv/castellum/media"),
            ("state", "/var/lib/castellum"),
            ("cache", "/var/cache/castellum"),
            ("run", "/run/castellum"),
            ("secrets", "/run/secrets"),
        ] {
            let host = self.folder.join(part);
            command
                .arg("--volume")
                .arg(format!("{}:{inside}", host.display()));
        }
        let defaults = [
            ("ORIGIN__TLS__LISTEN", "127.0.0.1:0"),
            ("LICENSE__TLS__LISTEN", "127.0.0.1:0"),
            ("ORIGIN__PLAIN__LISTEN", "127.0.0.1:0"),
            ("ORIGIN__ADMIN__LISTEN", "127.0.0.1:0"),
            ("KEYSTORE__PASSPHRASE_FILE", "/run/secrets/passphrase"),
            ("KEYSTORE__INIT_AT_START", "true"),
            ("TENANTS__DEFAULT__ALLOW_CLEAR_KEY", "true"),
            ("TENANTS__DEFAULT__ALLOW_CLEAR", "true"),
            ("DRAIN__DELAY", "0s"),
        ];
        // buildah takes the last value that is given for a variable.
        for (key, value) in defaults.iter().chain(settings) {
            command
                .arg("--env")
                .arg(format!("CASTELLUM__{key}={value}"));
        }
        command
            .arg(&self.name)
            .arg("--")
            .arg("/usr/bin/castellum")
            .args(verb);
        Running(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = buildah().args(["rm", &self.name]).output();
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = descendant(self.0.id(), "castellum") {
            let _ = Command::new("kill")
                .args(["-s", "KILL", &process.to_string()])
                .status();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn buildah() -> Command {
    let mut buildah = Command::new("buildah");
    buildah.args(["--storage-driver", "vfs"]);
    buildah
}

/// The process of this name among the children, and theirs, of `ancestor`.
fn descendant(ancestor: u32, name: &str) -> Option<u32> {
    let processes: Vec<(u32, u32, String)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let process = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let (head, tail) = stat.rsplit_once(") ")?;
            let parent = tail.split(' ').nth(1)?.parse().ok()?;
            Some((process, parent, head.split_once('(')?.1.to_owned()))
        })
        .collect();
    let mut family = vec![ancestor];
    while let Some(member) = family.pop() {
        for (process, parent, command) in &processes {
            if *parent == member {
                if command == name {
                    return Some(*process);
                }
                family.push(*process);
            }
        }
    }
    None
}

/// Makes the Debian package of the binary under test, quickly rather than small.
fn deb(output: &Path) -> PathBuf {
    let path = must(
        Command::new(packaging().join("deb/build.sh"))
            .arg(env!("CARGO_BIN_EXE_castellum"))
            .arg(output)
            .env("SOURCE_DATE_EPOCH", "1")
            .env("DPKG_DEB_COMPRESSOR_TYPE", "gzip")
            .env("DPKG_DEB_COMPRESSOR_LEVEL", "1"),
    );
    PathBuf::from(text(&path).trim())
}

/// The demo's title, as files that the roles may read.
fn copy_title(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(packaging().join("demo/title")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() == Some(OsStr::new("mp4")) {
            let copy = folder.join(path.file_name().unwrap());
            fs::copy(&path, &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_uri(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

/// A reference beside `base`; curl resolves its dots.
fn join(base: &str, reference: &str) -> String {
    let (folder, _) = base.rsplit_once('/').unwrap();
    format!("{folder}/{reference}")
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Asks again until there is an answer.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        sleep(Duration::from_millis(200));
    }
}

/// Runs a command that must succeed, and returns its output.
fn must(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output.stdout
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An empty folder of this name, below the target folder.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("packages")
        .join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn packaging() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn not_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    !root
}

/// Whether a program is missing; under `make test`, which installs them, that is a failure.
fn missing(program: &str, argument: &str) -> bool {
    let there = Command::new(program).arg(argument).output().is_ok();
    if !there {
        skip(&format!("no {program}"));
    }
    !there
}

fn skip(reason: &str) {
    assert!(
        std::env::var_os("CASTELLUM_NO_SKIP").is_none(),
        "cannot run: {reason}"
    );
    eprintln!("skipped: {reason} (`make setup` sees to it)");
}
