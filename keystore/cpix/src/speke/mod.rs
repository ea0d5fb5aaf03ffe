//! SPEKE (Secure Packager and Encoder Key Exchange) 1.0, 2.0 and 2.1: both halves.
//!
//! ```text
//!            encryptor's side                                   key server's side
//!
//! Order ── request() ──────────> headers, body ──────────> Request::read
//!                                                             │ prepare(signalling, release)
//!                                                          Prepared   (whatever can be refused has been)
//!                                                             │ respond(keys)
//! Supply <── accept(headers, body) ── headers, body <───── Response
//! ```
//!
//! SPEKE 1.0 has one key and no version header; 2.0 has an encryption contract: a key for each kind of track; 2.1 is
//! 2.0 with CPIX 2.4, at the same address.

mod answer;
mod contract;
mod order;
mod preset;
mod request;
mod response;

pub use answer::{SuppliedKey, Supply};
pub use contract::{MAX_KEYS, MAX_RULES};
pub use order::{Order, OrderRequest, OrderedKey};
pub use preset::{AudioPreset, Usage, VideoPreset, usages};
pub use request::{AskedKey, Request};
pub use response::{IssuedKey, Prepared, Release, Response};

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::identity::Version;

/// The header that names the version, in requests and answers.
pub const VERSION_HEADER: &str = "X-Speke-Version";

/// The type of every body.
pub const CONTENT_TYPE: &str = "application/xml";

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpekeVersion {
    /// 1.0, over CPIX 2.0.
    V1_0,
    /// 2.0, over CPIX 2.3.
    V2_0,
    /// 2.1, over CPIX 2.4.
    V2_1,
}

impl SpekeVersion {
    /// The value of [`VERSION_HEADER`]; 1.0 has no such header.
    pub const fn header(self) -> Option<&'static str> {
        match self {
            Self::V1_0 => None,
            Self::V2_0 => Some("2.0"),
            Self::V2_1 => Some("2.1"),
        }
    }

    /// The version of the documents.
    pub const fn cpix(self) -> Version {
        match self {
            Self::V1_0 => Version::V2_0,
            Self::V2_0 => Version::V2_3,
            Self::V2_1 => Version::V2_4,
        }
    }

    /// The header in which a key server names itself.
    pub const fn user_agent_header(self) -> &'static str {
        match self {
            Self::V1_0 => "Speke-User-Agent",
            Self::V2_0 | Self::V2_1 => "X-Speke-User-Agent",
        }
    }

    /// The path under which this server answers: 2.1 comes to that of 2.0. A request whose version has another path
    /// than the one it came to is to be refused.
    pub const fn path(self) -> &'static str {
        match self {
            Self::V1_0 => "/speke/v1.0",
            Self::V2_0 | Self::V2_1 => "/speke/v2.0",
        }
    }

    /// From [`VERSION_HEADER`].
    fn read(header: Option<&str>) -> Result<Self, Error> {
        match header.map(str::trim_ascii) {
            None => Ok(Self::V1_0),
            Some("2.0") => Ok(Self::V2_0),
            Some("2.1") => Ok(Self::V2_1),
            // SPEKE fixes the words.
            Some(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "Unsupported SPEKE version",
            )),
        }
    }
}

impl fmt::Display for SpekeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.header().unwrap_or("1.0"))
    }
}

/// The headers of a request or an answer that mean something here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// `Content-Type`; where it is missing, XML is assumed.
    pub content_type: Option<&'a str>,
    /// [`VERSION_HEADER`].
    pub speke_version: Option<&'a str>,
}

impl Headers<'_> {
    fn check_content_type(&self) -> Result<(), Error> {
        let Some(text) = self.content_type else {
            return Ok(());
        };
        let mut parts = text.split(';').map(str::trim_ascii);
        let essence = parts.next().unwrap_or_default();
        let xml = ["application/xml", "text/xml"];
        let mut charsets = parts.filter_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("charset")
                .then(|| value.trim_matches('"'))
        });
        if xml.iter().any(|it| essence.eq_ignore_ascii_case(it))
            && charsets.all(|it| it.eq_ignore_ascii_case("utf-8"))
        {
            return Ok(());
        }
        let reason = "the Content-Type is application/xml, in UTF-8";
        Err(Error::new(ErrorKind::Unsupported, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let check = |content_type| {
            let headers = Headers {
                content_type,
                ..Headers::default()
            };
            headers.check_content_type().is_ok()
        };
        for good in [
            None,
            Some("application/xml"),
            Some("Application/XML; charset=UTF-8"),
            Some("text/xml;charset=\"utf-8\""),
        ] {
            assert!(check(good), "{good:?}");
        }
        for bad in ["", "application/json", "application/xml; charset=utf-16"] {
            assert!(!check(Some(bad)), "{bad}");
        }
    }
}
