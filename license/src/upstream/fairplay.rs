//! The operator's key security module behind a sidecar: JSON over HTTP on this host or by TLS. The contract is
//! `license/design/fairplay-sidecar.md`; what is in an SPC and a CKC is the module's alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use keystore_types::KeyId;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::grant::{fairplay, terms};
use super::{Call, Miss, Reply, decoded, json_headers, judged, members, said};
use crate::format::fairplay::Spc;
use crate::outbound::Outbound;

pub(super) struct Service {
    outbound: Outbound,
}

/// Why a licence with another number of keys is not asked for.
pub(super) const ONE_KEY: &str = "an SPC is for one key";

impl Service {
    pub(super) fn new(outbound: Outbound) -> Self {
        Self { outbound }
    }

    /// The key that an SPC is for, which only the module can read out of it.
    pub(super) async fn identify(&self, body: &[u8]) -> Result<KeyId, Miss> {
        let spc = spc(body)?;
        let request = json!({ "version": 1, "ask": "asset", "spc": STANDARD.encode(spc.bytes) });
        let body = Bytes::from(request.to_string());
        let answer = self.outbound.post(json_headers(), body).await?;
        let members = members(&judged(answer)?)?;
        let asset = members.get("asset").and_then(Value::as_str);
        let asset = asset.ok_or_else(|| Miss::Unfit("its answer has no `asset`".to_owned()))?;
        // As manifests have it, with or without its scheme.
        let name = asset.strip_prefix("skd://").unwrap_or(asset);
        let refused = |_| Miss::Refused("the SPC's asset is not a key id".to_owned());
        name.parse().map_err(refused)
    }

    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Reply, Miss> {
        let spc = spc(call.body)?;
        let mut keys = call.keys();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Miss::Refused(ONE_KEY.to_owned()));
        };
        let head = json!({
            "version": 1,
            "ask": "license",
            "spc": STANDARD.encode(spc.bytes),
            "asset": call.challenge.asset,
            "key_id": key.granted.key_id,
            "policy": policy(call, fairplay(key.granted.rule.fairplay_hdcp)),
        });
        let answer = self
            .outbound
            .post(json_headers(), body(&head, key.exported))
            .await?;
        let mut members = members(&judged(answer)?)?;
        let ckc = decoded(&mut members, "ckc")?;
        if !is_whole(&ckc) {
            return Err(Miss::Unfit("its answer's `ckc` is no CKC".to_owned()));
        }
        Ok(Reply {
            content_type: HeaderValue::from_static(spc.shape.media_type()),
            body: spc.shape.write(&ckc).into(),
            said: said::recorded(&members),
        })
    }
}

fn spc(body: &[u8]) -> Result<Spc, Miss> {
    Spc::read(body).map_err(|fault| Miss::Refused(fault.to_string()))
}

fn policy(call: &Call<'_>, hdcp: &str) -> Value {
    let mut policy = terms(&call.grant.terms, call.now);
    if let Value::Object(members) = &mut policy {
        members.insert("hdcp".to_owned(), json!(hdcp));
    }
    policy
}

/// The request, with the key at its end if one goes along, in a buffer that is wiped when it was sent.
fn body(head: &Value, exported: Option<&keystore_client::ExportedKey>) -> Bytes {
    let head = head.to_string();
    let Some(exported) = exported else {
        return head.into();
    };
    let key = Zeroizing::new(STANDARD.encode(exported.key.expose()));
    let iv = STANDARD.encode(exported.iv.as_bytes());
    let open = head.strip_suffix('}').unwrap_or(&head);
    let parts = [open, r#","key":""#, &key, r#"","iv":""#, &iv, r#""}"#];
    Bytes::from_owner(Zeroizing::new(parts.concat().into_bytes()))
}

/// Whether the public words at a CKC's front fit its length: version, reserved, initialisation vector, and in version 1 the
/// payload's length. Later versions are described in Apple's SDK alone.
fn is_whole(ckc: &[u8]) -> bool {
    const FRONT: usize = 24;
    let word = |at: usize| {
        let bytes = ckc.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    match word(0) {
        Some(1) => word(FRONT).is_some_and(|len| {
            usize::try_from(len).is_ok_and(|len| len > 0 && len == ckc.len() - FRONT - 4)
        }),
        Some(version) => (2..1 << 24).contains(&version) && ckc.len() > FRONT,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ckc_is_whole_or_none() {
        let ckc = |version: u8, len: u8, payload: usize| {
            let mut bytes = vec![0, 0, 0, version];
            bytes.extend([0; 20]);
            bytes.extend([0, 0, 0, len]);
            bytes.resize(28 + payload, 0xaa);
            bytes
        };
        assert!(is_whole(&ckc(1, 16, 16)));
        assert!(is_whole(&ckc(3, 99, 16)));
        for bad in [ckc(1, 16, 15), ckc(1, 16, 17), ckc(1, 0, 0), ckc(0, 16, 16)] {
            assert!(!is_whole(&bad));
        }
        for bad in [
            &b""[..],
            b"<html>",
            &ckc(1, 16, 16)[..20],
            &ckc(2, 0, 0)[..24],
        ] {
            assert!(!is_whole(bad), "{bad:?}");
        }
    }
}
