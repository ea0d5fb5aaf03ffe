//! The databases that several keystores, or several licence servers, share.

use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::document::PostgresDocument;
use crate::settings::{PostgresHost, PostgresSettings};
use crate::units::Span;

/// The port of PostgreSQL, as IANA has it.
const PORT: u16 = 5432;

/// The most connections of a node.
const MAX_CONNECTIONS: usize = 100;

impl Check<'_> {
    pub(super) fn postgres(
        &mut self,
        table: &str,
        postgres: PostgresDocument,
    ) -> Option<PostgresSettings> {
        let key = |name: &str| format!("{table}.{name}");
        let password = self.secret(
            table,
            "password",
            postgres.password_file,
            postgres.password_credential,
        );
        let Some(url) = postgres.url else {
            if password.is_some() || postgres.ca_file.is_some() {
                self.fault(
                    &key("url"),
                    "is not set, so the records are in SQLite",
                    "write url = \"postgres://castellum@db.example.com/castellum\", or leave the whole table out",
                );
            }
            return None;
        };
        let ca_file = (postgres.ca_file).map(|path| self.absolute(&key("ca_file"), path));
        let connections = self.connections(&key("connections"), postgres.connections);
        let (least, most) = (Span(Duration::from_millis(100)), Span::seconds(60));
        self.within(&key("timeout"), postgres.timeout, least, most);
        let (least, most) = (Span::seconds(0), Span::seconds(86_400));
        self.within(&key("survival"), postgres.survival, least, most);
        let server = match Server::parse(&url) {
            Ok(server) => server,
            Err(message) => {
                self.fault(
                    &key("url"),
                    message,
                    "such as postgres://castellum@db.example.com:5432/castellum, or \
                     postgres://castellum@/castellum?host=/run/postgresql; a password goes into a file, password_file",
                );
                return None;
            }
        };
        Some(PostgresSettings {
            host: server.host,
            user: server.user,
            database: server.database,
            password,
            ca_file,
            connections,
            timeout: postgres.timeout.0,
            survival: postgres.survival.0,
        })
    }

    fn connections(&mut self, key: &str, written: u32) -> usize {
        match usize::try_from(written) {
            Ok(connections) if (1..=MAX_CONNECTIONS).contains(&connections) => connections,
            Ok(_) | Err(_) => {
                self.fault(
                    key,
                    &format!("{written} is not within 1 to {MAX_CONNECTIONS}"),
                    "see conf/README.md",
                );
                1
            }
        }
    }
}

/// What the URL says.
#[derive(Debug, PartialEq)]
struct Server {
    host: PostgresHost,
    user: String,
    database: String,
}

impl Server {
    /// Errors say what is wrong and never repeat the URL, which may hold a password.
    fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = (url.strip_prefix("postgres://"))
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("is not the URL of a PostgreSQL database")?;
        let (user, rest) = rest.rsplit_once('@').ok_or("names no user")?;
        if user.contains(':') {
            return Err("holds a password");
        }
        let (authority, rest) = rest.split_once('/').ok_or("names no database")?;
        let (database, query) = match rest.split_once('?') {
            Some((database, query)) => (database, Some(query)),
            None => (rest, None),
        };
        if !plain(user) || !plain(database) {
            return Err(
                "names a user or a database otherwise than in letters, digits, '_', '-' and '.'",
            );
        }
        let host = match (authority, query) {
            ("", Some(query)) => {
                let folder = query.strip_prefix("host=").map(PathBuf::from);
                let folder = folder.filter(|folder| folder.is_absolute());
                PostgresHost::Socket(folder.ok_or("does not name the socket's folder")?)
            }
            ("", None) => return Err("names no host"),
            (_, Some(_)) => return Err("has parameters, which keys of this table are there for"),
            (authority, None) => tcp(authority).ok_or("names no host, or no port, that can be")?,
        };
        Ok(Self {
            host,
            user: user.to_owned(),
            database: database.to_owned(),
        })
    }
}

fn tcp(authority: &str) -> Option<PostgresHost> {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons inside an IPv6 address are no port's.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        Some(_) | None => (authority, PORT),
    };
    let host = match host.strip_prefix('[') {
        Some(address) => {
            let address = address.strip_suffix(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            address
        }
        None => plain(host).then_some(host)?,
    };
    Some(PostgresHost::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn plain(name: &str) -> bool {
    !name.is_empty()
        && (name.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_as_whom() {
        let host = |url| Server::parse(url).map(|server| server.host);
        let tcp = |host: &str, port| {
            Ok(PostgresHost::Tcp {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(
            host("postgres://u@db.example.com/d"),
            tcp("db.example.com", 5432)
        );
        assert_eq!(
            host("postgresql://u@10.0.0.1:6000/d"),
            tcp("10.0.0.1", 6000)
        );
        assert_eq!(host("postgres://u@[::1]/d"), tcp("::1", 5432));
        assert_eq!(host("postgres://u@[::1]:6000/d"), tcp("::1", 6000));
        assert_eq!(
            host("postgres://u@/d?host=/run/postgresql"),
            Ok(PostgresHost::Socket("/run/postgresql".into()))
        );
        for wrong in [
            "mysql://u@h/d",
            "postgres://h/d",
            "postgres://u@h",
            "postgres://u@h/",
            "postgres://@h/d",
            "postgres://u@/d",
            "postgres://u@/d?host=run",
            "postgres://u@h:port/d",
            "postgres://u@h:65536/d",
            "postgres://u@[::1/d",
            "postgres://u@h/d?sslmode=disable",
            "postgres://u:secret@h/d",
            "postgres://u:s@cret@h/d",
        ] {
            let said = host(wrong).unwrap_err();
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
