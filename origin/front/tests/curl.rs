//! curl as a client that shares no code with the server (libcurl, nghttp2, OpenSSL). Skips where there is no curl.
#![expect(clippy::unwrap_used, reason = "in what the tests share, too")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

use conf::Transport;
use support::{BIG, Server, TLS, pattern};

struct Curl {
    folder: tempfile::TempDir,
    ca: PathBuf,
}

impl Curl {
    fn new(server: &Server) -> Option<Self> {
        if Command::new("curl").arg("--version").output().is_err() {
            eprintln!("skipped: there is no curl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        server.ca.write_pem(&ca).unwrap();
        Some(Self { folder, ca })
    }

    /// Runs curl; the body goes to a file.
    fn run(&self, arguments: &[&str], url: &str) -> Output {
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(&self.ca)
            .arg("--output")
            .arg(self.body())
            .args([
                "--write-out",
                "%{http_version} %{http_code} %{size_download}",
            ])
            .args(arguments)
            .arg(url)
            .output()
            .unwrap()
    }

    fn body(&self) -> PathBuf {
        self.folder.path().join("body")
    }
}

/// Every protocol that curl and we share: its arguments, the scheme, and what curl calls it.
const WAYS: [(&[&str], &str, &str); 4] = [
    (&["--http1.1"], "http", "1.1"),
    (&["--http2-prior-knowledge"], "http", "2"),
    (&["--http1.1"], "https", "1.1"),
    (&["--http2"], "https", "2"),
];

fn server(scheme: &str) -> Server {
    Server::start(if scheme == "http" {
        Transport::Plain
    } else {
        TLS
    })
}

#[test]
fn bodies_and_ranges_arrive_whole() {
    for (arguments, scheme, version) in WAYS {
        let server = server(scheme);
        let Some(curl) = Curl::new(&server) else {
            return;
        };
        let url = format!("{scheme}://127.0.0.1:{}/big", server.address.port());
        let whole = curl.run(arguments, &url);
        assert_eq!(
            String::from_utf8_lossy(&whole.stdout),
            format!("{version} 200 {BIG}")
        );
        assert!(std::fs::read(curl.body()).unwrap() == pattern(0..BIG));

        let part = curl.run(&[arguments, &["--range", "5-2000004"]].concat(), &url);
        assert_eq!(
            String::from_utf8_lossy(&part.stdout),
            format!("{version} 206 2000000")
        );
        assert!(std::fs::read(curl.body()).unwrap() == pattern(5..2_000_005));
    }
}

#[test]
fn a_cut_body_fails() {
    for (arguments, scheme, version) in WAYS {
        let server = server(scheme);
        let Some(curl) = Curl::new(&server) else {
            return;
        };
        let url = format!("{scheme}://127.0.0.1:{}/cut", server.address.port());
        let cut = curl.run(arguments, &url);
        // 18: fewer bytes than promised; 56: the connection failed; 92: the HTTP/2 stream was reset.
        assert!(
            matches!(cut.status.code(), Some(18 | 56 | 92)),
            "{scheme} {version}: {cut:?}"
        );
    }
}

#[test]
fn tls_1_2_and_aes_128_are_spoken() {
    let server = server("https");
    let Some(curl) = Curl::new(&server) else {
        return;
    };
    let url = format!("https://localhost:{}/hello", server.address.port());
    for (version, cipher) in [
        ("1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("1.3", "TLS_AES_128_GCM_SHA256"),
    ] {
        let flag = format!("--tlsv{version}");
        let hello = curl.run(&["--verbose", &flag, "--tls-max", version], &url);
        let log = String::from_utf8_lossy(&hello.stderr);
        assert!(log.contains(cipher), "{log}");
        assert_eq!(String::from_utf8_lossy(&hello.stdout), "2 200 5");
    }
    let old = curl.run(&["--tlsv1.1", "--tls-max", "1.1"], &url);
    assert_eq!(old.status.code(), Some(35), "TLS 1.1 must fail: {old:?}");
}
