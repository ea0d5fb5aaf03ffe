//! Any other licence service. It gets the challenge as it came, or in a JSON object, which may be signed as for Widevine;
//! and where a secret is shared with it, the signed grant.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::{UpstreamBody, UpstreamSettings};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};

use super::grant::{GrantSigner, rules, terms};
use super::playready::SOAP;
use super::signer::Signer;
use super::{Call, Miss, Reply, additions, decoded, json_headers, judged, members, said};
use crate::Error;
use crate::format::fairplay::Spc;
use crate::format::widevine::{CERTIFICATE_REQUEST, Certificate};
use crate::outbound::{Answer, Outbound};
use crate::policy::System;

pub(super) struct Service {
    outbound: Outbound,
    body: UpstreamBody,
    signer: Option<Signer>,
    grant: Option<GrantSigner>,
    /// Members that a JSON request gets besides.
    additions: Map<String, Value>,
}

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Service {
    pub(super) fn open(
        table: &str,
        settings: &UpstreamSettings,
        outbound: Outbound,
    ) -> Result<Self, Error> {
        Ok(Self {
            outbound,
            additions: additions(table, settings)?,
            body: settings.body,
            signer: match &settings.signer {
                Some((name, key)) => Some(Signer::read(table, name, key)?),
                None => None,
            },
            grant: match &settings.grant {
                Some((header, secret)) => Some(GrantSigner::read(table, header, secret)?),
                None => None,
            },
        })
    }

    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Reply, Miss> {
        let system = call.challenge.system;
        match self.body {
            UpstreamBody::Raw => {
                let said = call.headers.get(header::CONTENT_TYPE).cloned();
                let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, said.unwrap_or(BYTES))]);
                let body = Bytes::copy_from_slice(call.body);
                let answer = self.post(headers, body, Some((call, call.body))).await?;
                if answer.body.is_empty() {
                    return Err(Miss::Unfit("its answer is empty".to_owned()));
                }
                let said = answer.headers.get(header::CONTENT_TYPE).cloned();
                Ok(Reply {
                    content_type: said.unwrap_or(BYTES),
                    body: Bytes::copy_from_slice(&answer.body),
                    said: Map::new(),
                })
            }
            UpstreamBody::Json => {
                // What a player wrapped around an SPC is not the service's concern.
                let spc = match system {
                    System::FairPlay => {
                        let spc = Spc::read(call.body);
                        Some(spc.map_err(|fault| Miss::Refused(fault.to_string()))?)
                    }
                    _ => None,
                };
                let challenge = spc.as_ref().map_or(call.body, |spc| &spc.bytes);
                let request = json!({
                    "version": 1,
                    "system": system.as_str(),
                    "asset": call.challenge.asset,
                    "challenge": STANDARD.encode(challenge),
                    "keys": rules(call),
                    "terms": terms(&call.grant.terms, call.now),
                });
                let request = self.signed(request)?;
                let answer = self
                    .post(json_headers(), request, Some((call, challenge)))
                    .await?;
                let mut members = members(&answer)?;
                let license = decoded(&mut members, "license")?;
                let (content_type, body) = match (&spc, system) {
                    (Some(spc), _) => {
                        let media_type = HeaderValue::from_static(spc.shape.media_type());
                        (media_type, spc.shape.write(&license))
                    }
                    (None, System::PlayReady) => (SOAP, license),
                    (None, _) => (BYTES, license),
                };
                Ok(Reply {
                    content_type,
                    body: body.into(),
                    said: said::recorded(&members),
                })
            }
        }
    }

    /// Asks for Widevine's service certificate, as a player does.
    pub(super) async fn certificate(&self) -> Result<Certificate, Miss> {
        let message = match self.body {
            UpstreamBody::Raw => {
                let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, BYTES)]);
                let body = Bytes::from_static(&CERTIFICATE_REQUEST);
                self.post(headers, body, None).await?.body.to_vec()
            }
            UpstreamBody::Json => {
                let request = json!({
                    "version": 1,
                    "system": System::Widevine.as_str(),
                    "challenge": STANDARD.encode(CERTIFICATE_REQUEST),
                });
                let request = self.signed(request)?;
                let answer = self.post(json_headers(), request, None).await?;
                decoded(&mut members(&answer)?, "license")?
            }
        };
        Certificate::read(&message)
            .ok_or_else(|| Miss::Unfit("what it gives for a certificate is none".to_owned()))
    }

    /// The request as it is sent.
    fn signed(&self, mut request: Value) -> Result<Bytes, Miss> {
        if let Value::Object(members) = &mut request {
            members.extend(self.additions.clone());
        }
        let request = request.to_string();
        let Some(signer) = &self.signer else {
            return Ok(request.into());
        };
        let envelope = signer.envelope(request.as_bytes());
        let envelope = envelope.map_err(|error| Miss::Unavailable(error.to_string()))?;
        Ok(Bytes::from_owner(envelope))
    }

    async fn post(
        &self,
        mut headers: HeaderMap,
        body: Bytes,
        granted: Option<(&Call<'_>, &[u8])>,
    ) -> Result<Answer, Miss> {
        if let (Some(grant), Some((call, challenge))) = (&self.grant, granted) {
            let (name, value) = grant.header(call, challenge);
            headers.insert(name, value);
        }
        judged(self.outbound.post(headers, body).await?)
    }
}
