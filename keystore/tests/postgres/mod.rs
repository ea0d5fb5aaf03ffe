//! Debian's PostgreSQL server, in a folder of its own that goes with the test, behind a Unix socket, and behind TLS where
//! a test wants that.
//!
//! `postgres` refuses to run as root, so as root it is `nobody` who does. The server's end hangs on a pipe: however the
//! test ends, the shell at the other side stops the server.

#![allow(dead_code, reason = "each test uses its part of this")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use conf::{PostgresHost, PostgresSettings};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

#[path = "../../../loadtest/src/port.rs"]
mod port;

/// The port of servers that listen on no other than that of their socket's name.
const PORT: u16 = 5432;

/// Makes a database cluster, starts it, says where it is, and waits for the end of its input.
const SCRIPT: &str = r#"
set -eu
folder=$(mktemp -d)
trap 'exit 1' HUP INT TERM
trap 'for data in "$folder"/data*/; do "$0/pg_ctl" stop -s -D "$data" -m immediate 2>/dev/null || :; done; rm -rf "$folder"' EXIT
"$0/initdb" -D "$folder/data" -U castellum -A trust --no-sync -E UTF8 --locale=C >/dev/null
cat >>"$folder/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$folder'
unix_socket_permissions = 0777
fsync = off
max_connections = 200
END
chmod 755 "$folder"
"$0/pg_ctl" start -s -w -D "$folder/data" -l "$folder/log" >/dev/null
echo "$folder"
cat >/dev/null
"#;

pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    port: u16,
    /// Ends the server, and its standby, when it goes.
    shell: Arc<Mutex<Child>>,
}

impl Server {
    /// A server of one's own, to stop and start; none where Debian's is not installed, which is said.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let missing = "PostgreSQL's server is missing (`make setup` sees to it)";
            assert!(std::env::var_os("CASTELLUM_NO_SKIP").is_none(), "{missing}");
            eprintln!("skipped: {missing}");
            return None;
        };
        let mut shell = unprivileged("sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg(&programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut folder = String::new();
        let output = shell.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut folder).unwrap();
        let folder = folder.trim_end();
        assert!(!folder.is_empty(), "the server did not start");
        let folder = PathBuf::from(folder);
        Some(Self {
            programs,
            data: folder.join("data"),
            folder,
            port: PORT,
            shell: Arc::new(Mutex::new(shell)),
        })
    }

    /// As [`Server::start`], and on loopback too, where nobody is served but by TLS with this certificate.
    pub fn start_with_tls(certificate: &str, key: &str) -> Option<Self> {
        let mut server = Self::start()?;
        server.write("server.pem", certificate);
        server.write("server.key", key);
        let folder = server.folder.display();
        server.configure(&format!(
            "listen_addresses = '127.0.0.1'\nssl = on\n\
             ssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.key'\n"
        ));
        server.listen_on_a_free_port();
        let rules = "local all all trust\nlocal replication all trust\n\
                     hostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(server.data.join("pg_hba.conf"), rules).unwrap();
        server.control(&["stop", "-m", "immediate"]);
        server.start_again();
        Some(server)
    }

    /// Starts it anew as one that speaks in the clear.
    pub fn without_tls(&self) {
        self.configure("ssl = off\n");
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        std::fs::write(self.data.join("pg_hba.conf"), rules).unwrap();
        self.stop();
        self.start_again();
    }

    /// Another server that follows this one by streaming replication. It has the same certificate.
    pub fn standby(&self) -> Self {
        let mut standby = Self {
            programs: self.programs.clone(),
            folder: self.folder.clone(),
            data: self.folder.join("data-standby"),
            port: self.port,
            shell: Arc::clone(&self.shell),
        };
        let done = unprivileged(self.programs.join("pg_basebackup").to_str().unwrap())
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-U", "castellum", "-R"])
            .args(["--checkpoint=fast", "--no-sync", "-D"])
            .arg(&standby.data)
            .status()
            .unwrap();
        assert!(done.success(), "no copy was made");
        standby.listen_on_a_free_port();
        standby.start_again();
        standby
    }

    /// A standby becomes a server that is written to.
    pub fn promote(&self) {
        self.control(&["promote", "-w"]);
    }

    /// The later of two lines for a key is the one that counts.
    fn configure(&self, lines: &str) {
        let path = self.data.join("postgresql.conf");
        let mut file = std::fs::File::options().append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// For when it is started next.
    fn listen_on_a_free_port(&mut self) {
        let port = port::free().unwrap();
        self.configure(&format!("port = {port}\n"));
        self.port = port;
    }

    /// A file in its folder that nobody else may read: the server insists on that for its key.
    fn write(&self, name: &str, text: &str) {
        let mut shell = unprivileged("sh")
            .args(["-c", "umask 077; cat >\"$0\""])
            .arg(self.folder.join(name))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert!(shell.wait().unwrap().success(), "{name}");
    }

    /// The port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the socket is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it, as in an emergency.
    pub fn stop(&self) {
        self.control(&["stop", "-m", "immediate"]);
    }

    pub fn start_again(&self) {
        let log = self.data.with_extension("log");
        self.control(&["start", "-w", "-l", log.to_str().unwrap()]);
    }

    fn control(&self, arguments: &[&str]) {
        let done = unprivileged(self.programs.join("pg_ctl").to_str().unwrap())
            .args(arguments)
            .arg("-s")
            .arg("-D")
            .arg(&self.data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "{arguments:?}");
    }

    /// Connects to a database of it.
    pub async fn connect(&self, database: &str) -> PgConnection {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .port(self.port)
            .username("castellum")
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .options([("search_path", "keystore")])
            .connect()
            .await
            .unwrap()
    }

    /// Makes an empty database; returns its name.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        let made = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
        sqlx::raw_sql(made).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        name
    }

    /// What a node needs to use a database of it by TLS, over a way that ends at this port.
    pub fn settings_over(&self, port: u16, database: &str, ca_file: &Path) -> PostgresSettings {
        PostgresSettings {
            host: PostgresHost::Tcp {
                host: "localhost".to_owned(),
                port,
            },
            ca_file: Some(ca_file.to_owned()),
            ..self.settings(database)
        }
    }

    /// What a node needs to use a database of it.
    pub fn settings(&self, database: &str) -> PostgresSettings {
        PostgresSettings {
            host: PostgresHost::Socket(self.folder.clone()),
            user: "castellum".to_owned(),
            database: database.to_owned(),
            password: None,
            ca_file: None,
            connections: 8,
            timeout: Duration::from_secs(10),
            survival: Duration::from_secs(60),
        }
    }
}

/// The server that all tests of a program share.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::start).as_ref()
}

/// The newest version's folder of programs, as Debian has them.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .collect();
    folders.sort();
    folders.pop()
}

/// A command as somebody who is not root.
fn unprivileged(program: &str) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    // The folder of whoever runs the tests may be closed to others.
    command.current_dir("/").env("LC_ALL", "C");
    command
}
