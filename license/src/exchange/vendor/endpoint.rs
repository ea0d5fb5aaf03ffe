//! One request to a vendor's key server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{SecretSource, VendorSettings};
use cpix::speke::{Headers, VERSION_HEADER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use zeroize::Zeroizing;

use super::FetchError;
use crate::Error;
use crate::outbound::{Answer, Destination, Fault, Outbound, Reach, secret_header};

/// Where a vendor is asked, and as whom.
pub(super) struct Endpoint {
    vendor: String,
    outbound: Outbound,
    user: Option<String>,
    secret: Option<SecretSource>,
}

impl Endpoint {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// One that cannot be read or is not fit, by its file.
    pub(super) fn open(
        vendor: &str,
        settings: &VendorSettings,
        limit: usize,
    ) -> Result<Self, Error> {
        let authority = &settings.authority;
        let outbound = Outbound::open(&Destination {
            table: &format!("license.exchange.vendors.{vendor}"),
            reach: match settings.tls {
                true => Reach::Tls {
                    authority,
                    ca_file: &settings.ca_file,
                    identity: settings.identity.as_ref(),
                },
                false => Reach::Plain { authority },
            },
            path: &settings.path,
            timeout: settings.timeout,
            limit,
        })?;
        Ok(Self {
            vendor: vendor.to_owned(),
            outbound,
            user: settings.user.clone(),
            secret: settings.secret.clone(),
        })
    }

    /// Posts a document.
    ///
    /// # Errors
    /// Whatever comes that is not a whole answer with 200 in time.
    pub(super) async fn post(
        &self,
        headers: &[(&'static str, &'static str)],
        body: String,
    ) -> Result<Answer, FetchError> {
        let answer = self
            .outbound
            .post(self.headers(headers)?, Bytes::from(body));
        let answer = answer.await.map_err(|fault| self.fault(fault))?;
        self.judge(answer.status)?;
        Ok(answer)
    }

    fn headers(&self, headers: &[(&'static str, &'static str)]) -> Result<HeaderMap, FetchError> {
        let unready = |what: String| FetchError::Unready {
            vendor: self.vendor.clone(),
            what,
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).map_err(|error| unready(error.to_string()))?;
            map.insert(name, HeaderValue::from_static(value));
        }
        if let Some(source) = &self.secret {
            let credentials = |secret: &str| match &self.user {
                Some(user) => {
                    let pair = Zeroizing::new(format!("{user}:{secret}"));
                    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
                }
                None => Zeroizing::new(format!("Bearer {secret}")),
            };
            let value = secret_header(source, credentials);
            let value = value.map_err(|error| unready(error.to_string()))?;
            map.insert(header::AUTHORIZATION, value);
        }
        Ok(map)
    }

    fn judge(&self, status: StatusCode) -> Result<(), FetchError> {
        let help = match status {
            StatusCode::OK => return Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ": it does not know this server, or not for this content"
            }
            status if status.is_redirection() => {
                ": no redirect is followed; write where it really is"
            }
            _ => "",
        };
        Err(FetchError::Refused {
            vendor: self.vendor.clone(),
            place: self.outbound.place().to_owned(),
            status,
            help,
        })
    }

    fn fault(&self, fault: Fault) -> FetchError {
        let (vendor, place) = (self.vendor.clone(), self.outbound.place().to_owned());
        match fault {
            Fault::Unreachable(what) => FetchError::Unreachable {
                vendor,
                place,
                what,
            },
            Fault::Late(timeout) => FetchError::Late {
                vendor,
                place,
                seconds: timeout.as_secs(),
            },
            Fault::TooLong(limit) => FetchError::TooLong { vendor, limit },
        }
    }
}

/// The headers that mean something; one that is no text is taken for another than it should be.
pub(super) fn meaning(answer: &Answer) -> Headers<'_> {
    let field = |name: &str| {
        let value = answer.headers.get(name)?;
        Some(value.to_str().unwrap_or_default())
    };
    Headers {
        content_type: field(header::CONTENT_TYPE.as_str()),
        speke_version: field(VERSION_HEADER),
    }
}
