//! What is to be loaded: the JSON line that `castellum demo --json` prints.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use crate::token::{Algorithm, BadKey, Minter};

/// Bytes of that line; a library of thousands of titles stays far below.
const LINE_LIMIT: u64 = 16 << 20;

/// The form of the line that is understood here.
const SCHEMA: u32 = 1;

/// The name of the policy whose samples are the measure of all others.
pub const CLEAR_POLICY: &str = "clear";

/// A running appliance, its titles, and a token that is good for them.
#[derive(Deserialize)]
pub struct Target {
    schema: u32,
    origin: String,
    origin_tls: String,
    license: String,
    license_tls: String,
    /// PEM file of the authority that signed the TLS certificates.
    pub ca: PathBuf,
    /// Bearer token for licences.
    pub token: String,
    /// Who may sign others.
    issuer: Option<Issuer>,
    /// The titles.
    pub assets: Vec<Asset>,
}

/// Whose tokens are taken for the titles, and the key that signs them.
#[derive(Deserialize)]
struct Issuer {
    iss: String,
    aud: String,
    algorithm: Algorithm,
    key_file: PathBuf,
}

/// Why no tokens can be signed for a target.
#[derive(Debug, thiserror::Error)]
pub enum NoMinter {
    /// It says nothing of that.
    #[error(
        "viewers are to have tokens of their own (`tokens = \"own\"`), but the target names no `issuer`"
    )]
    Unnamed,
    /// The key cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no key.
    #[error("{path}: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadKey,
    },
}

/// One title.
#[derive(Debug, Deserialize)]
pub struct Asset {
    /// Its name.
    pub id: String,
    /// The policies under which it is served.
    pub streams: Vec<Stream>,
}

/// One title under one policy.
#[derive(Debug, Deserialize)]
pub struct Stream {
    /// Name of the policy.
    pub policy: String,
    /// Its HLS multivariant playlist.
    pub hls: Url,
    /// Its MPD.
    pub dash: Url,
}

/// Why a target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file, or `-`.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its first line is not the JSON of `castellum demo --json`.
    #[error("{path} does not hold the line of `castellum demo --json`: {source}")]
    Json {
        /// The file, or `-`.
        path: PathBuf,
        /// Where the JSON goes wrong.
        source: serde_json::Error,
    },
    /// A newer or older demo.
    #[error("the target has schema {0}, this loadtest knows {SCHEMA}")]
    Schema(u32),
    /// No title to play.
    #[error("the target lists no streams")]
    Empty,
}

impl Target {
    /// Reads the first line of a file, or of standard input for `-`.
    ///
    /// # Errors
    /// Where it cannot be read, is of another schema, or lists nothing to play.
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let unreadable = |source| Unusable::Read {
            path: path.to_owned(),
            source,
        };
        // The demo goes on running after its line: the end of the input must not be waited for.
        let mut line = Vec::new();
        if path == Path::new("-") {
            first_line(std::io::stdin().lock(), &mut line).map_err(unreadable)?;
        } else {
            let file = std::fs::File::open(path).map_err(unreadable)?;
            first_line(BufReader::new(file), &mut line).map_err(unreadable)?;
        }
        Self::parse(&line).map_err(|fault| match fault {
            Unusable::Json { source, .. } => Unusable::Json {
                path: path.to_owned(),
                source,
            },
            other => other,
        })
    }

    fn parse(line: &[u8]) -> Result<Self, Unusable> {
        let target: Self = serde_json::from_slice(line).map_err(|source| Unusable::Json {
            path: PathBuf::new(),
            source,
        })?;
        if target.schema != SCHEMA {
            return Err(Unusable::Schema(target.schema));
        }
        if target.assets.iter().all(|asset| asset.streams.is_empty()) {
            return Err(Unusable::Empty);
        }
        Ok(target)
    }

    /// What mints tokens that are good for the titles.
    ///
    /// # Errors
    /// Where the target has no issuer, or a key that cannot be used.
    pub fn minter(&self) -> Result<Minter, NoMinter> {
        let issuer = self.issuer.as_ref().ok_or(NoMinter::Unnamed)?;
        let path = || issuer.key_file.clone();
        let key = std::fs::read(&issuer.key_file).map_err(|source| NoMinter::Read {
            path: path(),
            source,
        })?;
        let minter = Minter::new(issuer.algorithm, &issuer.iss, &issuer.aud, &key);
        minter.map_err(|source| NoMinter::Key {
            path: path(),
            source,
        })
    }

    /// The listeners of both roles, with or without TLS.
    pub fn listeners(&self, tls: bool) -> Vec<Url> {
        let listeners = if tls {
            [&self.origin_tls, &self.license_tls]
        } else {
            [&self.origin, &self.license]
        };
        listeners
            .iter()
            .filter_map(|base| Url::parse(base).ok())
            .collect()
    }

    /// The same resource on the TLS listener of its role, or on the plain one.
    ///
    /// The demo spells every URL for the plain listeners; a URL of neither role is left as it is.
    pub fn on_listener(&self, url: &Url, tls: bool) -> Url {
        let roles = [
            (&self.origin, &self.origin_tls),
            (&self.license, &self.license_tls),
        ];
        for (plain, secure) in roles {
            let (from, to) = if tls {
                (plain, secure)
            } else {
                (secure, plain)
            };
            if let Some(rest) = url.as_str().strip_prefix(from.as_str())
                && rest.starts_with('/')
                && let Ok(moved) = Url::parse(&format!("{to}{rest}"))
            {
                return moved;
            }
        }
        url.clone()
    }
}

fn first_line(reader: impl BufRead, line: &mut Vec<u8>) -> std::io::Result<()> {
    reader.take(LINE_LIMIT).read_until(b'\n', line).map(drop)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Target;

    /// A target of one title with a clear and a protected policy.
    pub(crate) fn target() -> Target {
        Target::parse(LINE.as_bytes()).unwrap()
    }

    pub(crate) const LINE: &str = r#"{"schema": 1, "page": "http://127.0.0.1:9090/",
        "admin": "http://127.0.0.1:9090", "origin": "http://127.0.0.1:8080", "origin_tls": "https://127.0.0.1:8443",
        "license": "http://127.0.0.1:844", "license_tls": "https://127.0.0.1:8444", "ca": "/run/ca.pem", "token": "t",
        "assets": [{"id": "demo", "streams": [
          {"policy": "cbcs", "scheme": "cbcs", "hls": "http://127.0.0.1:8080/v1/demo/cbcs/main.m3u8",
           "dash": "http://127.0.0.1:8080/v1/demo/cbcs/main.mpd", "hls_players": ["hls.js"], "license": "http://x/"},
          {"policy": "clear", "scheme": "clear", "hls": "http://127.0.0.1:8080/v1/demo/clear/main.m3u8",
           "dash": "http://127.0.0.1:8080/v1/demo/clear/main.mpd", "hls_players": [], "license": null}]}]}"#;
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::LINE;

    #[test]
    fn moves_urls_between_listeners() {
        let target = testing::target();
        let moved = |url: &str, tls| {
            target
                .on_listener(&Url::parse(url).unwrap(), tls)
                .to_string()
        };
        assert_eq!(
            moved("http://127.0.0.1:8080/v1/a?b", true),
            "https://127.0.0.1:8443/v1/a?b"
        );
        assert_eq!(
            moved("https://127.0.0.1:8444/license/x", false),
            "http://127.0.0.1:844/license/x"
        );
        assert_eq!(
            moved("http://127.0.0.1:8080/v1/a", false),
            "http://127.0.0.1:8080/v1/a"
        );
    }

    #[test]
    fn names_the_listeners_of_both_roles() {
        let ports = |tls| {
            let listeners = testing::target().listeners(tls);
            listeners.iter().filter_map(Url::port).collect::<Vec<_>>()
        };
        assert_eq!(
            (ports(true), ports(false)),
            (vec![8443, 8444], vec![8080, 844])
        );
    }

    #[test]
    fn refuses_another_schema_and_an_empty_library() {
        let other = LINE.replace("\"schema\": 1", "\"schema\": 2");
        assert!(matches!(
            Target::parse(other.as_bytes()),
            Err(Unusable::Schema(2))
        ));
        let (head, _) = LINE.split_once("\"streams\"").unwrap();
        let empty = format!("{head}\"streams\": []}}]}}");
        assert!(matches!(
            Target::parse(empty.as_bytes()),
            Err(Unusable::Empty)
        ));
        assert!(matches!(Target::parse(b"{}"), Err(Unusable::Json { .. })));
    }

    #[test]
    fn tokens_are_minted_where_an_issuer_is_named() {
        let unnamed = testing::target().minter();
        assert!(matches!(unnamed, Err(NoMinter::Unnamed)));
        let named = LINE.replace(
            "\"token\"",
            r#""issuer": {"iss": "a", "aud": "b", "algorithm": "ES256", "key_file": "/nowhere"}, "token""#,
        );
        let minter = Target::parse(named.as_bytes()).unwrap().minter();
        assert!(matches!(minter, Err(NoMinter::Read { .. })));
    }

    #[test]
    fn reads_one_line_and_leaves_the_rest() {
        let mut line = Vec::new();
        first_line(&b"{}\nmore"[..], &mut line).unwrap();
        assert_eq!(line, b"{}\n");
    }
}
