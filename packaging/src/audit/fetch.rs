//! Asking an origin and a licence server, within bounds: requests in all, time in all, bytes of one answer, redirects.
//!
//! What is fetched is kept, so that what two manifests share is fetched once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use license::Wiped;
use license::outbound::{Answer, Destination, Outbound, Reach};
use url::Url;

use super::finding::shown;
use crate::failure::Failure;

/// From the connection to the last byte of one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A player gives up before; a chain that is longer is a loop.
const MAX_REDIRECTS: u32 = 5;
/// Bytes that are kept in all: segments of a ladder of every size.
const MAX_KEPT: usize = 512 << 20;

/// What is fetched: a URL, or a range of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub(crate) url: Url,
    /// The first byte, and one past the last.
    pub(crate) range: Option<(u64, u64)>,
}

impl From<Url> for Resource {
    fn from(url: Url) -> Self {
        Self { url, range: None }
    }
}

/// Why something was not had. The text names no query.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("{place} answers {status}")]
    Status { place: String, status: StatusCode },
    #[error("{place}: {why}")]
    Fault { place: String, why: String },
    #[error("the bound of requests or of time is reached")]
    Bound,
}

impl Unserved {
    fn fault(url: &Url, why: impl ToString) -> Self {
        Self::Fault {
            place: shown(url),
            why: why.to_string(),
        }
    }
}

/// The bounds of one audit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) requests: u32,
    pub(crate) time: Duration,
}

/// What was had, and where: what it names is relative to there (RFC 3986 5.1.3), and redirects may have led on.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) url: Url,
    pub(crate) bytes: Arc<[u8]>,
}

/// Asks.
pub(crate) struct Fetcher {
    ca_file: PathBuf,
    left: u32,
    asked: u32,
    until: Instant,
    kept: HashMap<Resource, Result<Fetched, Unserved>>,
    kept_bytes: usize,
    /// Whether a bound ended something.
    pub(crate) bound: bool,
}

impl Fetcher {
    /// A fetcher that believes the authorities in this file.
    ///
    /// # Errors
    /// The file holds none.
    pub(crate) fn new(ca_file: PathBuf, bounds: Bounds) -> Result<Self, Failure> {
        let fetcher = Self {
            ca_file,
            left: bounds.requests,
            asked: 0,
            until: Instant::now() + bounds.time,
            kept: HashMap::new(),
            kept_bytes: 0,
            bound: false,
        };
        let anywhere = Destination {
            table: "audit",
            reach: Reach::Tls {
                authority: "localhost",
                ca_file: &fetcher.ca_file,
                identity: None,
            },
            path: "/",
            timeout: PATIENCE,
            limit: 0,
        };
        match Outbound::open(&anywhere) {
            Ok(_) => Ok(fetcher),
            Err(error) => Err(Failure::usage(format!("--ca: {error}"))),
        }
    }

    /// How many requests were made.
    pub(crate) fn asked(&self) -> u32 {
        self.asked
    }

    /// What is there, at most `limit` bytes of it, following redirects.
    pub(crate) async fn get(
        &mut self,
        resource: &Resource,
        limit: usize,
    ) -> Result<Fetched, Unserved> {
        if let Some(kept) = self.kept.get(resource) {
            return kept.clone();
        }
        let fetched = self.follow(resource, limit).await;
        if let Ok(Fetched { bytes, .. }) = &fetched {
            self.kept_bytes = self.kept_bytes.saturating_add(bytes.len());
        }
        if self.kept_bytes <= MAX_KEPT && !matches!(fetched, Err(Unserved::Bound)) {
            self.kept.insert(resource.clone(), fetched.clone());
        }
        fetched
    }

    async fn follow(&mut self, resource: &Resource, limit: usize) -> Result<Fetched, Unserved> {
        let mut headers = HeaderMap::new();
        if let Some((start, end)) = resource.range {
            let range = format!("bytes={start}-{}", end.saturating_sub(1));
            let range = HeaderValue::try_from(range)
                .map_err(|error| Unserved::fault(&resource.url, error))?;
            headers.insert(header::RANGE, range);
        }
        let mut url = resource.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(&url, headers.clone(), None, limit).await?;
            if answer.status.is_redirection() {
                let location = answer.headers.get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                url = location
                    .and_then(|location| url.join(location).ok())
                    .ok_or_else(|| Unserved::fault(&url, "a redirect to no URL"))?;
                continue;
            }
            let body: &[u8] = &answer.body;
            let bytes = match (answer.status, resource.range) {
                (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) => body,
                // A server need not know ranges (RFC 9110 14.2).
                (StatusCode::OK, Some((start, end))) => {
                    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                    let range = body.get(at(start)..at(end).min(body.len()));
                    range.ok_or_else(|| Unserved::fault(&url, "it ends before the range begins"))?
                }
                (status, _) => {
                    let place = shown(&url);
                    return Err(Unserved::Status { place, status });
                }
            };
            let bytes = bytes.into();
            return Ok(Fetched { url, bytes });
        }
        Err(Unserved::fault(&resource.url, "too many redirects"))
    }

    /// One request to a licence server, whose redirects are not followed: a token goes where it was sent.
    pub(crate) async fn license(
        &mut self,
        url: &Url,
        headers: HeaderMap,
        body: Option<Bytes>,
        limit: usize,
    ) -> Result<(StatusCode, Wiped), Unserved> {
        let answer = self.ask(url, headers, body, limit).await?;
        Ok((answer.status, answer.body))
    }

    async fn ask(
        &mut self,
        url: &Url,
        mut headers: HeaderMap,
        body: Option<Bytes>,
        limit: usize,
    ) -> Result<Answer, Unserved> {
        let left = self.until.saturating_duration_since(Instant::now());
        if self.left == 0 || left.is_zero() {
            self.bound = true;
            return Err(Unserved::Bound);
        }
        self.left -= 1;
        self.asked += 1;
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("castellum-audit/", env!("CARGO_PKG_VERSION"))),
        );
        let host = url.host_str();
        let host = host.ok_or_else(|| Unserved::fault(url, "the URL names no host"))?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let reach = match url.scheme() {
            "http" => Reach::Plain {
                authority: &authority,
            },
            "https" => Reach::Tls {
                authority: &authority,
                ca_file: &self.ca_file,
                identity: None,
            },
            _ => return Err(Unserved::fault(url, "the URL is neither https nor http")),
        };
        let destination = Destination {
            table: "audit",
            reach,
            path: &url[url::Position::BeforePath..url::Position::AfterQuery],
            timeout: PATIENCE.min(left),
            limit,
        };
        let outbound = Outbound::open(&destination).map_err(|error| Unserved::fault(url, error))?;
        let answer = match body {
            None => outbound.get(headers).await,
            Some(body) => outbound.post(headers, body).await,
        };
        answer.map_err(|error| Unserved::fault(url, error))
    }
}
