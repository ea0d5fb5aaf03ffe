//! Who may ask the API: whoever shows the operators' token (RFC 6750 2.1) or, where none is configured, whoever is on this host.
//! Health and metrics stay open.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use conf::SecretSource;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use super::fault::Fault;
use crate::Error;

/// The shortest token, in bytes: one that nobody guesses by asking.
const MIN_TOKEN_LEN: usize = 16;

/// Who may ask.
#[derive(Debug)]
pub(crate) enum Guard {
    /// Peers on loopback.
    Loopback,
    /// Whoever shows the token of this SHA-256: tokens of any length are compared in one time.
    Token([u8; 32]),
}

impl Guard {
    /// Reads the token, if one is configured.
    ///
    /// # Errors
    /// One that cannot be read, is short, or could not be sent.
    pub(crate) fn open(source: Option<&SecretSource>) -> Result<Self, Error> {
        let Some(source) = source else {
            return Ok(Self::Loopback);
        };
        let attempted = format!("use the token {source} (license.admin.token_file)");
        let token = (source.read_line()).map_err(|error| Error::unavailable(&*attempted, error))?;
        if token.len() < MIN_TOKEN_LEN || !token.iter().all(u8::is_ascii_graphic) {
            return Err(Error::malformed(format!(
                "{attempted}: it is not {MIN_TOKEN_LEN} or more visible characters of ASCII: draw one with \
                 `openssl rand -hex 32`"
            )));
        }
        Ok(Self::Token(digest_of(&token)))
    }

    fn judge(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<(), Fault> {
        match self {
            Self::Loopback if peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) => {
                Ok(())
            }
            Self::Loopback => Err(Fault::new(
                StatusCode::FORBIDDEN,
                "loopback-only",
                "The API is for this host alone.",
                "no token is configured: set license.admin.token_file, and send it as Authorization: Bearer",
            )),
            Self::Token(own) => match shown(headers) {
                Some(token) if bool::from(own.ct_eq(&digest_of(token))) => Ok(()),
                Some(_) => Err(Fault::new(
                    StatusCode::UNAUTHORIZED,
                    "token-refused",
                    "The token is not accepted.",
                    "it is not that of license.admin.token_file",
                )),
                None => Err(Fault::new(
                    StatusCode::UNAUTHORIZED,
                    "token-missing",
                    "A token is needed to ask the API.",
                    "send that of license.admin.token_file as Authorization: Bearer, once",
                )),
            },
        }
    }
}

/// The one token that a request shows.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).into_iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("Bearer")).then(|| token.trim_matches(' ').as_bytes())
}

fn digest_of(token: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// Lets a request pass, or says why not. A listener that does not say who its peer is has none on this host.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| *peer);
    match guard.judge(peer, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn open(folder: &tempfile::TempDir, written: &str) -> Result<Guard, Error> {
        let path = folder.path().join("token");
        std::fs::write(&path, written).unwrap();
        Guard::open(Some(&SecretSource::file(path)))
    }

    fn status(guard: &Guard, peer: Option<&str>, fields: &[&str]) -> u16 {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, field.parse().unwrap());
        }
        let judged = guard.judge(peer.map(|peer| peer.parse().unwrap()), &headers);
        judged.map_or_else(|fault| fault.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn without_a_token_this_host_alone_may_ask() {
        let guard = Guard::open(None).unwrap();
        for (peer, expected) in [
            (Some("127.0.0.1:4000"), 200),
            (Some("127.9.9.9:4000"), 200),
            (Some("[::1]:4000"), 200),
            (Some("[::ffff:127.0.0.1]:4000"), 200),
            (Some("192.0.2.1:4000"), 403),
            (Some("10.0.0.1:4000"), 403),
            (Some("[::ffff:10.0.0.1]:4000"), 403),
            (Some("[2001:db8::1]:4000"), 403),
            (None, 403),
        ] {
            let token = format!("Bearer {TOKEN}");
            assert_eq!(status(&guard, peer, &[&token]), expected, "{peer:?}");
        }
    }

    #[test]
    fn with_a_token_whoever_shows_it_may_ask_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let guard = open(&folder, &format!("{TOKEN}\n")).unwrap();
        let whole = format!("Bearer {TOKEN}");
        let lower = format!("bearer  {TOKEN} ");
        let cut = format!("Bearer {}", &TOKEN[1..]);
        let basic = format!("Basic {TOKEN}");
        for (fields, expected) in [
            (&[whole.as_str()][..], 200),
            (&[&lower], 200),
            (&[], 401),
            (&[&cut], 401),
            (&[&basic], 401),
            (&[TOKEN], 401),
            (&["Bearer"], 401),
            (&["Bearer "], 401),
            (&[&whole, &whole], 401),
        ] {
            for peer in [Some("192.0.2.1:4000"), Some("127.0.0.1:4000"), None] {
                assert_eq!(
                    status(&guard, peer, fields),
                    expected,
                    "{peer:?} {fields:?}"
                );
            }
        }
        assert!(!format!("{guard:?}").contains(TOKEN));
    }

    #[test]
    fn a_token_that_is_weak_or_cannot_be_sent_stops_the_start_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        for written in [
            "hunter2-hunter2",
            "sixteen bytes, but with spaces",
            "päßwörter-päßwörter",
        ] {
            let error = open(&folder, written).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{written}");
            let said = error.to_string();
            assert!(said.contains("license.admin.token_file"), "{said}");
            assert!(!said.contains(written), "{said}");
        }
    }
}
