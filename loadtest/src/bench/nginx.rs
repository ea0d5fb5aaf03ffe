//! The other side: nginx on the exported files, one worker, tuned as a static server is.

use std::fs;
use std::path::{Path, PathBuf};

use super::Failure;
use super::cores::Cores;
use super::probe;
use super::process::Process;
use crate::host::Processes;
use crate::port;

/// How nginx is set up.
pub(super) struct Setup<'a> {
    /// The binary.
    pub(super) program: &'a Path,
    /// Where its worker runs.
    pub(super) cores: Cores,
    /// What it serves.
    pub(super) root: &'a Path,
    /// Where its configuration and temporary files lie.
    pub(super) folder: &'a Path,
    /// A certificate and its key, in one file.
    pub(super) certificate: &'a Path,
    /// Whether it speaks HTTP/3 beside HTTP/1.1 and HTTP/2; needs 1.25.
    pub(super) quic: bool,
}

/// A running nginx.
pub(super) struct Nginx {
    processes: Processes,
    /// The port of its plain listener.
    pub(super) plain: u16,
    /// The port of its TLS listener, and of QUIC.
    pub(super) tls: u16,
    _process: Process,
}

impl Nginx {
    /// Starts it, and waits until it answers.
    pub(super) fn start(setup: &Setup<'_>) -> Result<Self, Failure> {
        let here = |error| Failure::at(setup.folder, error);
        fs::create_dir_all(setup.folder).map_err(here)?;
        let ports = (|| Ok([port::free()?, port::free()?]))();
        let [plain, tls] = ports.map_err(here)?;
        let config = setup.folder.join("nginx.conf");
        let user = rustix::process::geteuid().is_root().then_some("root");
        fs::write(&config, config_text(setup, [plain, tls], user)).map_err(here)?;
        let mut command = setup.cores.server_command(setup.program);
        command.arg("-c").arg(&config).arg("-p").arg(setup.folder);
        command.arg("-e").arg(setup.folder.join("error.log"));
        let mut process = Process::start(command, &setup.folder.join("nginx.log"))?;
        process.until(|| probe::get(plain, "/").is_ok())?;
        let processes = Processes::on_port(plain).map_err(here)?;
        Ok(Self {
            processes: processes.unwrap_or_else(|| Processes::of([process.id()])),
            plain,
            tls,
            _process: process,
        })
    }

    /// Its master and its worker.
    pub(super) fn processes(&self) -> Processes {
        self.processes.clone()
    }
}

/// The program at `path`, or of that name where Debian keeps servers.
pub(super) fn find(path: &Path) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        .collect();
    let plain = path.components().count() == 1;
    let candidates = folders.iter().map(|folder| folder.join(path));
    match plain {
        true => candidates.into_iter().find(|candidate| candidate.is_file()),
        false => path.is_file().then(|| path.to_owned()),
    }
}

/// `user` is said where root starts it: a worker of another user could not enter the folder.
fn config_text(setup: &Setup<'_>, [plain, tls]: [u16; 2], user: Option<&str>) -> String {
    let user = user.map_or_else(String::new, |user| format!("user {user};"));
    let at = |name: &str| setup.folder.join(name).display().to_string();
    let (over_tls, quic) = if setup.quic {
        let quic = format!("listen 127.0.0.1:{tls} quic reuseport;");
        (
            format!("listen 127.0.0.1:{tls} ssl; http2 on; http3 on; quic_gso on;"),
            quic,
        )
    } else {
        (format!("listen 127.0.0.1:{tls} ssl http2;"), String::new())
    };
    format!(
        r#"daemon off;
{user}
worker_processes 1;
pid {pid};
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    open_file_cache max=10000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    types {{ application/vnd.apple.mpegurl m3u8; application/dash+xml mpd; video/mp4 m4s mp4; }}
    client_body_temp_path {body};
    proxy_temp_path {proxy};
    fastcgi_temp_path {fastcgi};
    uwsgi_temp_path {uwsgi};
    scgi_temp_path {scgi};
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_buffer_size 16k;
    http2_chunk_size 16k;
    server {{
        listen 127.0.0.1:{plain};
        {over_tls}
        {quic}
        root {root};
        location = / {{ return 200 "here"; }}
    }}
}}
"#,
        pid = at("nginx.pid"),
        body = at("body"),
        proxy = at("proxy"),
        fastcgi = at("fastcgi"),
        uwsgi = at("uwsgi"),
        scgi = at("scgi"),
        certificate = setup.certificate.display(),
        root = setup.root.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(quic: bool) -> String {
        let setup = Setup {
            program: Path::new("nginx"),
            cores: Cores::pick().unwrap(),
            root: Path::new("/twin"),
            folder: Path::new("/scratch"),
            certificate: Path::new("/srv/pair.pem"),
            quic,
        };
        config_text(&setup, [1, 2], Some("root"))
    }

    #[test]
    fn quic_has_the_port_of_tls_and_only_where_it_is_wanted() {
        let (with, without) = (text(true), text(false));
        assert!(
            with.contains("listen 127.0.0.1:2 quic reuseport;"),
            "{with}"
        );
        assert!(
            without.contains("listen 127.0.0.1:2 ssl http2;"),
            "{without}"
        );
        assert!(!without.contains("quic"), "{without}");
        for text in [with, without] {
            assert_eq!(
                text.matches('{').count(),
                text.matches('}').count(),
                "{text}"
            );
            assert!(text.contains("root /twin;"), "{text}");
        }
    }

    #[test]
    fn a_program_is_found_by_name_or_by_path() {
        let shell = find(Path::new("sh")).unwrap();
        assert_eq!(find(&shell), Some(shell));
        assert_eq!(find(Path::new("no such program")), None);
        assert_eq!(find(Path::new("/no/such/program")), None);
    }
}
