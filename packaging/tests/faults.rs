//! What viewers get when a mezzanine fails under them, when the disk is cold, when the keystore seals and when the
//! process is told to end: whole bytes or a visible break, over HTTP/1.1, /2 and /3, clear and encrypted.
//!
//! Every segment here is larger than all the buffers between the origin and a viewer who has stopped reading, so a
//! fault always finds much of it unsent. Cannot catch what only a network file system or a dying disk does.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use appliance::{Answer, Node, Receiving, Running, curl, project, representations, signal};

const POLICIES: [&str; 3] = ["clear", "cenc", "cbcs"];

/// One test at a time: each has nine viewers of a title that is heavy to encrypt in a debug build.
static STAGE: Mutex<()> = Mutex::new(());

/// A segment is larger than this, and what lies in buffers is less.
const HEAVY: usize = 20 << 20;

/// Bytes that a viewer has when it stops reading.
const TASTE: u64 = 1 << 16;

/// Bytes a second until then: slow beside the moment between the taste and the stop.
const RATE: u64 = 4 << 20;

/// A film of two segments, [`HEAVY`] each. Films of different `seed` show different noise.
fn heavy(seed: u32) -> PathBuf {
    let film = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("heavy-{seed}.mp4"));
    if !film.exists() {
        let part = film.with_extension(format!("{}.part.mp4", std::process::id()));
        let noise = format!("testsrc2=size=1280x720:rate=25,noise=alls=100:allf=t:all_seed={seed}");
        let status = Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-loglevel",
                "error",
                "-y",
                "-f",
                "lavfi",
                "-i",
                &noise,
            ])
            .args([
                "-f",
                "lavfi",
                "-i",
                "sine=frequency=440:sample_rate=48000",
                "-t",
                "8",
            ])
            .args([
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-pix_fmt",
                "yuv420p",
                "-b:v",
                "45M",
            ])
            .args([
                "-g",
                "100",
                "-keyint_min",
                "100",
                "-sc_threshold",
                "0",
                "-c:a",
                "aac",
            ])
            .arg(&part)
            .status()
            .expect("ffmpeg is installed");
        assert!(status.success());
        fs::rename(part, &film).unwrap();
    }
    film
}

/// A node with the asset `heavy`, and another that no fault may touch.
struct Stage {
    node: Node,
    origin: Running,
    film: PathBuf,
    steady: (String, Vec<u8>),
    _folder: tempfile::TempDir,
}

impl Stage {
    fn set(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::new(&folder.path().join("node"), &folder.path().join("run"));
        let media = node.folder.join("media");
        fs::create_dir(media.join("heavy")).unwrap();
        let film = media.join("heavy/film.mp4");
        fs::copy(heavy(1), &film).unwrap();
        let steady = project().join("packaging/demo/title/castellum-720.mp4");
        fs::copy(steady, media.join("steady.mp4")).unwrap();
        let mut command = node.command(&["serve", "--role", "keystore,origin"]);
        let origin = node.spawn_by({
            command.envs(environment.iter().copied());
            command
        });
        node.wait_until_it_answers();
        let url = segment(&node, "steady", "cbcs");
        let bytes = curl(&[&url]).whole();
        Self {
            node,
            origin,
            film,
            steady: (url, bytes),
            _folder: folder,
        }
    }

    /// The first segment of the heavy picture under each policy, with its bytes; the origin knows the whole content by then.
    fn segments(&self) -> Vec<(&'static str, String, Vec<u8>)> {
        let segments = POLICIES.map(|policy| {
            let url = segment(&self.node, "heavy", policy);
            let bytes = curl(&[&url]).whole();
            assert!(bytes.len() > HEAVY, "{} bytes", bytes.len());
            (policy, url, bytes)
        });
        self.node.wait_for("the content to be known", || {
            let log = self.node.log();
            log.lines()
                .any(|line| line.contains("read in full") && line.contains("heavy"))
        });
        // Until its protected bytes are mapped the film is read in the background.
        self.node.wait_for("two maps", || {
            let files = fs::read_dir(self.node.folder.join("cache/index")).unwrap();
            let names = files.map(|file| file.unwrap().file_name().display().to_string());
            names.filter(|name| name.ends_with(".map")).count() == 2
        });
        segments.into()
    }

    /// Ends the process at once.
    fn kill(&mut self) {
        self.origin.0.kill().unwrap();
        self.origin.0.wait().unwrap();
    }

    /// The process lives, and what was not touched is served as ever.
    fn goes_on(&mut self) {
        assert!(
            self.origin.0.try_wait().unwrap().is_none(),
            "the origin ended:\n{}",
            self.node.log()
        );
        assert!(
            curl(&[&self.steady.0]).whole() == self.steady.1,
            "another title's bytes changed"
        );
    }
}

/// The first segment of an asset's picture under a policy, once there is one.
fn segment(node: &Node, asset: &str, policy: &str) -> String {
    let (url, mpd) = node.mpd(asset, policy);
    let picture = representations(&url, &mpd)
        .into_iter()
        .find(|found| found.id.starts_with('v'));
    picture.unwrap().segments.swap_remove(0)
}

/// Someone who watches the heavy segment and has stopped reading it.
struct Viewer<'a> {
    who: String,
    policy: &'static str,
    protocol: &'static str,
    /// Clear film over plain HTTP/1.1 is lent from the file itself.
    is_lent: bool,
    whole: &'a [u8],
    receiving: Receiving,
}

/// How a viewer's stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

impl<'a> Viewer<'a> {
    /// Viewers of every segment by every protocol, each with a part of it.
    fn all(node: &Node, segments: &'a [(&'static str, String, Vec<u8>)]) -> Vec<Self> {
        let rate = RATE.to_string();
        let mut viewers = Vec::new();
        for (policy, url, whole) in segments {
            let secure = url.replace(&node.origin, &node.origin_tls);
            let over_tcp =
                |more: &[&str]| Some(Receiving::begin(&[&["--limit-rate", &rate], more].concat()));
            type Begin<'a> = &'a dyn Fn() -> Option<Receiving>;
            let begin: [(&str, bool, Begin<'_>); 4] = [
                ("1.1", true, &|| over_tcp(&[url])),
                ("2", true, &|| over_tcp(&["--http2-prior-knowledge", url])),
                ("2", false, &|| over_tcp(&["--insecure", &secure])),
                ("3", false, &|| Receiving::begin_http3(&secure, RATE)),
            ];
            for (protocol, is_plain, receiving) in begin {
                let Some(receiving) = receiving() else {
                    continue;
                };
                receiving.until(TASTE);
                receiving.pause();
                let plain = if is_plain { "plain " } else { "" };
                let who = format!("{policy} over {plain}HTTP/{protocol}");
                viewers.push(Self {
                    who,
                    policy,
                    protocol,
                    is_lent: is_plain && (*policy, protocol) == ("clear", "1.1"),
                    whole,
                    receiving,
                });
            }
        }
        viewers
    }

    /// Reads to the end. Whatever comes is the beginning of what was asked for, and whole only if it is said to be.
    /// Of what is lent, bytes may have changed before a cut.
    fn end(self) -> (String, &'static str, End) {
        let Answer {
            exit,
            status,
            protocol,
            body,
            ..
        } = self.receiving.end();
        assert_eq!(
            (status, protocol.as_str()),
            (200, self.protocol),
            "{}",
            self.who
        );
        assert!(
            (self.is_lent && exit != 0) || self.whole.starts_with(&body),
            "{}: other bytes",
            self.who
        );
        let end = if exit == 0 {
            assert_eq!(
                body.len(),
                self.whole.len(),
                "{}: said to be whole",
                self.who
            );
            End::Whole
        } else {
            // Partial file; stream error of HTTP/2; of HTTP/3. Not a timeout, not a refused connection.
            let expected: &[i32] = match self.protocol {
                "1.1" => &[18],
                "2" => &[92],
                _ => &[18, 56, 95],
            };
            assert!(
                expected.contains(&exit),
                "{}: curl's exit code {exit}",
                self.who
            );
            assert!(
                body.len() < self.whole.len(),
                "{}: all bytes came and then a break",
                self.who
            );
            End::Cut
        };
        (self.who, self.policy, end)
    }
}

/// Lets the viewers read on, each to the end that is `expected` under its policy.
fn all_end(viewers: Vec<Viewer<'_>>, expected: impl Fn(&str) -> End) {
    viewers.iter().for_each(|viewer| viewer.receiving.resume());
    for viewer in viewers {
        let (who, policy, end) = viewer.end();
        assert_eq!(end, expected(policy), "{who}");
    }
}

/// Puts a copy of a film in the place of another by a rename.
fn rename_over(film: &Path, by: &Path) {
    let beside = film.with_file_name(".beside.mp4");
    fs::copy(by, &beside).unwrap();
    fs::rename(beside, film).unwrap();
}

/// A refusal that time mends, and that says so.
fn refused_for_now(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    let seconds: u32 = answer.headers["retry-after"].parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[test]
fn a_truncated_mezzanine_cuts_its_streams() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&stage.film)
        .unwrap();
    file.set_len(1 << 20).unwrap();
    all_end(viewers, |_| End::Cut);
    stage.goes_on();

    let (_, url, bytes) = &segments[0];
    stage.node.wait_for("the rest to be refused", || {
        let asset = curl(&[&format!("{}/api/v1/assets/heavy", stage.node.admin)]);
        asset.status == 422 && asset.text().contains("not complete yet")
    });
    let gone = curl(&[url]);
    assert_eq!(gone.status, 410, "{}", gone.text());
    // The same content again is the same title: the same names and bytes.
    rename_over(&stage.film, &heavy(1));
    for (policy, url, bytes) in &segments {
        assert_eq!(&segment(&stage.node, "heavy", policy), url);
        assert!(&curl(&[url]).whole() == bytes, "{policy}");
    }
    assert!(&curl(&[url]).whole() == bytes);
    stage.goes_on();
}

#[test]
fn an_overwritten_mezzanine_cuts_its_streams_and_is_quarantined() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    let other = fs::read(heavy(2)).unwrap();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(&stage.film)
        .unwrap();
    file.write_all(&other).unwrap();
    file.set_len(other.len() as u64).unwrap();
    drop(file);
    refused_for_now(&curl(&[&segments[1].1]));
    all_end(viewers, |_| End::Cut);
    stage.goes_on();

    for (policy, url, bytes) in &segments {
        let mut quarantines = 0;
        let manifest = format!("{}/v1/heavy/{policy}/main.mpd", stage.node.origin);
        stage.node.wait_for("the end of the quarantine", || {
            let answer = curl(&[&manifest]);
            if answer.status != 200 {
                refused_for_now(&answer);
                quarantines += 1;
            }
            answer.status == 200
        });
        let now = segment(&stage.node, "heavy", policy);
        assert_ne!(&now, url, "{policy}: another content under an old name");
        assert!(&curl(&[&now]).whole() != bytes, "{policy}");
        assert_eq!(curl(&[url]).status, 410, "{policy}");
    }
    stage.goes_on();
}

#[test]
fn a_replaced_mezzanine_is_played_to_its_end() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    rename_over(&stage.film, &heavy(2));
    for (policy, url, _) in &segments {
        stage.node.wait_for("the new film", || {
            &segment(&stage.node, "heavy", policy) != url
        });
    }
    all_end(viewers, |_| End::Whole);
    for (policy, url, bytes) in &segments {
        assert!(
            &curl(&[url]).whole() == bytes,
            "{policy}: whoever plays the old film plays on"
        );
        let now = segment(&stage.node, "heavy", policy);
        assert!(&curl(&[&now]).whole() != bytes, "{policy}: the new film");
    }
    stage.goes_on();
}

#[test]
fn a_deleted_mezzanine_is_played_to_its_end_and_gone() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    fs::remove_file(&stage.film).unwrap();
    for (policy, url, _) in &segments {
        let manifest = curl(&[&format!("{}/v1/heavy/{policy}/main.mpd", stage.node.origin)]);
        assert_eq!(manifest.status, 404, "{}", manifest.text());
        let media = curl(&[url]);
        assert_eq!(media.status, 410, "{}", media.text());
    }
    all_end(viewers, |_| End::Whole);
    stage.goes_on();
}

#[test]
fn sealing_cuts_what_is_encrypted_and_nothing_else() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    run(stage.node.command(&["keystore", "seal"]));
    let ready = format!("{}/readyz", stage.node.admin);
    stage.node.wait_for("readiness to show it", || {
        let answer = curl(&[&ready]);
        answer.status == 503 && answer.text().contains("sealed")
    });
    all_end(viewers, |policy| match policy {
        "clear" => End::Whole,
        _ => End::Cut,
    });
    for (policy, url, bytes) in &segments {
        let manifest = format!("{}/v1/heavy/{policy}/main.mpd", stage.node.origin);
        if *policy == "clear" {
            assert_eq!(curl(&[&manifest]).status, 200);
            assert!(&curl(&[url]).whole() == bytes);
        } else {
            for address in [url, &manifest] {
                let answer = curl(&[address]);
                refused_for_now(&answer);
                assert!(answer.text().contains("sealed"), "{}", answer.text());
            }
        }
    }
    let passphrase = stage.node.folder.join("passphrase");
    let mut unseal = stage.node.command(&["keystore", "unseal"]);
    unseal.arg("--passphrase-file").arg(passphrase);
    run(unseal);
    for (policy, url, bytes) in &segments {
        assert_eq!(&segment(&stage.node, "heavy", policy), url);
        assert!(&curl(&[url]).whole() == bytes, "{policy}");
    }
    assert_eq!(curl(&[&ready]).status, 200);
    stage.goes_on();
}

#[test]
fn whoever_is_served_when_the_process_ends_is_served_to_the_end() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[
        ("CASTELLUM__DRAIN__DELAY", "2s"),
        ("CASTELLUM__DRAIN__TIMEOUT", "60s"),
    ]);
    let segments = stage.segments();
    let viewers = Viewer::all(&stage.node, &segments);
    signal(&stage.origin.0, "TERM");
    stage.node.wait_for("readiness to show it", || {
        let answer = curl(&[&format!("{}/readyz", stage.node.admin)]);
        answer.status == 503 && answer.text().contains("draining")
    });
    all_end(viewers, |_| End::Whole);
    let status = stage.origin.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", stage.node.log());
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A counter of the origin's metrics; 0 when it was never counted.
fn metric(node: &Node, line: &str) -> f64 {
    let text = curl(&[&format!("{}/metrics", node.admin)]).text();
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Takes a file out of the page cache, as far as the kernel follows the advice.
fn forget(film: &Path) {
    fs::File::open(film).unwrap().sync_all().unwrap();
    let mut input = std::ffi::OsString::from("if=");
    input.push(film);
    run({
        let mut dd = Command::new("dd");
        dd.arg(input)
            .args(["iflag=nocache", "count=0", "status=none"]);
        dd
    });
}

/// Asks for the segments of every policy, all cold and then all hot, and compares them with what they were.
fn cold_and_hot(stage: &Stage, segments: &[(&'static str, String, Vec<u8>)], hot: &str) {
    let read = |from: &str| {
        let line = format!("castellum_mezz_read_bytes_total{{from=\"{from}\"}}");
        metric(&stage.node, &line)
    };
    for (policy, url, bytes) in segments {
        assert_eq!(&segment(&stage.node, "heavy", policy), url);
        // Pages that the process has mapped and touched would stay: none is until the first hot read. But the origin
        // reads a new file through in the background, which brings them back.
        let was_cold = (0..20).any(|_| {
            let before = read("disk");
            forget(&stage.film);
            assert!(&curl(&[url]).whole() == bytes, "{policy}: cold");
            read("disk") > before
        });
        assert!(was_cold, "{policy}: nothing was read from the disk");
    }
    for (policy, url, bytes) in segments {
        let before = read(hot);
        assert!(&curl(&[url]).whole() == bytes, "{policy}: hot");
        assert!(read(hot) > before, "{policy}: nothing came from {hot}");
    }
}

#[test]
fn cold_bytes_are_the_same_by_ring_and_by_threads() {
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    let segments = stage.segments();
    for (storage, name) in [("uring", "io_uring"), ("blocking", "threads")] {
        stage.kill();
        let mut command = stage.node.command(&["serve", "--role", "keystore,origin"]);
        command.env("CASTELLUM__ORIGIN__STORAGE__COLD", storage);
        stage.origin = stage.node.spawn_by(command);
        stage.node.wait_until_it_answers();
        assert!(stage.node.log().contains(name), "{}", stage.node.log());
        cold_and_hot(&stage, &segments, "mapping");
        stage.goes_on();
    }
}

#[test]
fn a_mezzanine_of_another_user_is_the_same_cold_and_hot() {
    const USER: &str = "daemon";
    let _alone = STAGE.lock();
    let mut stage = Stage::set(&[]);
    if fs::metadata(&stage.film).unwrap().uid() != 0 {
        eprintln!("skipped: only root can start an origin as another user");
        return;
    }
    let segments = stage.segments();
    stage.kill();
    let node = &stage.node;
    let folder = node.folder.parent().unwrap();
    for path in [node.folder.as_path(), folder] {
        run(command("chmod", &["755"], path));
    }
    run(command("chmod", &["-R", "a+rwX"], &folder.join("run")));
    for state in ["origin", "cache", "license"] {
        run(command("chown", &["-R", USER], &node.folder.join(state)));
    }
    let _keystore = node.spawn("keystore");
    node.wait_for("the keystore", || {
        node.command(&["keystore", "status"])
            .output()
            .unwrap()
            .status
            .success()
    });
    let serve = node.command(&["serve", "--role", "origin"]);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(serve.get_program())
        .args(serve.get_args());
    stage.origin = node.spawn_by(command);
    node.wait_until_it_answers();
    cold_and_hot(&stage, &segments, "page_cache");
    stage.goes_on();
}

fn command(program: &str, args: &[&str], path: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(args).arg(path);
    command
}
