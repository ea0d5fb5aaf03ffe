//! A server by Microsoft's PlayReady SDK: the SOAP message as it came, and beside it, in a header, the signed grant.

use bytes::Bytes;
use conf::UpstreamSettings;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::Map;

use super::grant::GrantSigner;
use super::{Call, Miss, Reply, judged};
use crate::Error;
use crate::format::playready;
use crate::outbound::Outbound;

pub(super) struct Service {
    outbound: Outbound,
    grant: Option<GrantSigner>,
}

const SOAP_ACTION: HeaderName = HeaderName::from_static("soapaction");

/// What a SOAP 1.1 client says of its message, for those that say nothing.
const ACQUIRE: HeaderValue = HeaderValue::from_static(
    "\"http://schemas.microsoft.com/DRM/2007/03/protocols/AcquireLicense\"",
);
pub(super) const SOAP: HeaderValue = HeaderValue::from_static("text/xml; charset=utf-8");

impl Service {
    pub(super) fn open(
        table: &str,
        settings: &UpstreamSettings,
        outbound: Outbound,
    ) -> Result<Self, Error> {
        let grant = match &settings.grant {
            Some((header, secret)) => Some(GrantSigner::read(table, header, secret)?),
            None => None,
        };
        Ok(Self { outbound, grant })
    }

    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Reply, Miss> {
        let said = |name: HeaderName, default| {
            let value = call.headers.get(&name).cloned().unwrap_or(default);
            (name, value)
        };
        let mut headers =
            HeaderMap::from_iter([said(header::CONTENT_TYPE, SOAP), said(SOAP_ACTION, ACQUIRE)]);
        headers.extend(self.grant.as_ref().map(|grant| {
            let (name, value) = grant.header(call, call.body);
            (Some(name), value)
        }));
        let answer = self
            .outbound
            .post(headers, Bytes::copy_from_slice(call.body))
            .await?;
        // A fault comes with 500 (SOAP 1.1, 6.2), and is about this challenge.
        let fault = answer.status == StatusCode::INTERNAL_SERVER_ERROR;
        match playready::answer(&answer.body) {
            Some(playready::Answer::Fault) if fault || answer.status == StatusCode::OK => {
                Err(Miss::Refused("it answers with a SOAP fault".to_owned()))
            }
            Some(_) => Ok(Reply {
                content_type: SOAP,
                body: Bytes::copy_from_slice(&judged(answer)?.body),
                said: Map::new(),
            }),
            None => {
                judged(answer)?;
                Err(Miss::Unfit("its answer is no SOAP message".to_owned()))
            }
        }
    }
}
