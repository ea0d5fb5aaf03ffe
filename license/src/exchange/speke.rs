//! SPEKE: an encryptor's request is answered with its keys.

use cpix::delivery::Certificate;
use cpix::speke::{self, Headers, IssuedKey, Release, Request, VERSION_HEADER};
use cpix::{Limits, SystemId};
use http::{header, request};
use keystore_client::MAX_KEYS;
use keystore_client::exchange::{AskedKey, ExchangeRequest};
use keystore_types::Scheme;

use super::partner::Partner;
use super::usage::{Described, usage};
use super::{Exchange, Refusal, Reply, SERVER};
use crate::decision_log::Draft;
use crate::http::route::SpekeVersion;

impl Exchange {
    pub(super) async fn speke(
        &self,
        partner: &Partner,
        path: SpekeVersion,
        head: &request::Parts,
        body: &[u8],
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let field = |name: &str| -> Result<Option<&str>, Refusal> {
            let Some(value) = head.headers.get(name) else {
                return Ok(None);
            };
            let value = value.to_str();
            value
                .map(Some)
                .map_err(|_| Refusal::Unfit(format!("the header {name} is no text")))
        };
        let headers = Headers {
            content_type: field(header::CONTENT_TYPE.as_str())?,
            speke_version: field(VERSION_HEADER)?,
        };
        let limits = Limits {
            bytes: self.body_bytes,
            ..Limits::default()
        };
        let request = Request::read(&headers, body, &limits)?;
        check_path(path, request.version())?;
        draft.key_ids = request.keys().map(|key| key.key_id).collect();
        let asset = partner.asset(request.content_id()).inspect_err(|_| {
            draft.asset = request.content_id().parse().ok();
        })?;
        draft.asset = Some(asset.clone());

        let release = Release {
            enrolled: &partner.recipients,
            now: draft.time.as_seconds(),
            random: &self.random,
            key_cipher: partner.key_cipher,
            danger_clear: partner.danger_clear,
            danger_unenrolled: partner.danger_unenrolled,
        };
        let prepared = request.prepare(&*self.signals, &release)?;

        let recipients: Vec<String> = request
            .certificates()
            .map(Certificate::fingerprint)
            .collect();
        let protocol = format!("speke-{}", request.version());
        let asked: Vec<AskedKey> = request.keys().map(|key| asked(&request, &key)).collect();
        let mut exported = Vec::with_capacity(asked.len());
        for keys in asked.chunks(MAX_KEYS) {
            let request = ExchangeRequest {
                tenant: self.tenant.clone(),
                asset: asset.clone(),
                keys: keys.to_vec(),
                partner: self.audited(partner, &protocol, recipients.clone()),
            };
            exported.extend(self.keystore.exchange(request).await?);
        }
        let issued: Vec<IssuedKey<'_>> = (exported.iter())
            .map(|exported| IssuedKey {
                key_id: exported.key_id,
                key: &exported.key,
                // In counter mode the encryptor draws its own.
                explicit_iv: (exported.scheme == Scheme::Cbcs).then_some(exported.iv),
                hdcp: None,
            })
            .collect();
        let response = prepared.respond(&issued)?;
        Ok(Reply {
            headers: response.headers(SERVER),
            body: response.body,
        })
    }
}

fn check_path(path: SpekeVersion, version: speke::SpekeVersion) -> Result<(), Refusal> {
    let of_version = match version {
        speke::SpekeVersion::V1_0 => SpekeVersion::V1,
        speke::SpekeVersion::V2_0 | speke::SpekeVersion::V2_1 => SpekeVersion::V2,
    };
    match path == of_version {
        true => Ok(()),
        false => Err(Refusal::Unfit(format!(
            "SPEKE {version} is answered at {}: its requests {} the header {VERSION_HEADER}",
            version.path(),
            match version.header() {
                Some(_) => "have",
                None => "have not",
            }
        ))),
    }
}

fn asked(request: &Request, key: &speke::AskedKey<'_>) -> AskedKey {
    let systems = request.systems().iter();
    let systems: Vec<SystemId> = systems
        .filter(|system| system.key_id == key.key_id)
        .map(|system| system.system_id)
        .collect();
    AskedKey {
        key_id: key.key_id,
        usage: usage(&Described {
            scheme: key.scheme,
            rules: &key.rules,
            rotates: !key.periods.is_empty(),
            systems: &systems,
        }),
        iv: key.explicit_iv,
    }
}
