//! A licensed Widevine service: the challenge, the keys and the policy in a signed request (Widevine proxy integration).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use conf::UpstreamSettings;
use http::HeaderValue;
use keystore_types::Label;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::grant::{lasts, seconds};
use super::signer::Signer;
use super::{Call, Miss, Reply, additions, decoded, json_headers, judged, members, said};
use crate::format::widevine::{CERTIFICATE_REQUEST, Certificate};
use crate::outbound::Outbound;
use crate::policy::terms::{Hdcp, KeyRule, Terms};
use crate::{Error, UnixTime};

pub(super) struct Service {
    outbound: Outbound,
    provider: String,
    signer: Signer,
    /// Members that a request gets besides.
    additions: Map<String, Value>,
    /// Those of its overrides.
    overrides: Map<String, Value>,
    /// The length of both, in bytes of JSON.
    additional: usize,
}

/// The request within the envelope.
#[derive(Serialize)]
struct Request<'a> {
    /// What the player sent.
    payload: String,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_track_types: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    content_key_specs: Vec<KeySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_overrides: Option<Value>,
    #[serde(flatten)]
    additions: &'a Map<String, Value>,
}

/// One key, and what it asks of the device.
#[derive(Serialize)]
struct KeySpec {
    key_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iv: Option<String>,
    security_level: u8,
    required_output_protection: Value,
}

struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What of a request does not depend on the challenge and the number of keys, in bytes: more than there is.
const FRAME: usize = 2048;

/// A key spec, likewise.
const SPEC: usize = 512;

impl Service {
    pub(super) fn open(
        table: &str,
        settings: &UpstreamSettings,
        outbound: Outbound,
    ) -> Result<Self, Error> {
        let missing = |name: &str| Error::malformed(format!("{table}.{name} is required"));
        let (name, key) = settings.signer.as_ref().ok_or_else(|| missing("signer"))?;
        let mut additions = additions(table, settings)?;
        let additional = Value::Object(additions.clone()).to_string().len();
        let overrides = match additions.remove("policy_overrides") {
            Some(Value::Object(overrides)) => overrides,
            _ => Map::new(),
        };
        Ok(Self {
            additions,
            overrides,
            additional,
            outbound,
            provider: (settings.provider.clone()).ok_or_else(|| missing("provider"))?,
            signer: Signer::read(table, name, key)?,
        })
    }

    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Reply, Miss> {
        let keys = call.keys().map(|key| {
            let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
            KeySpec {
                key_id: base64(key.granted.key_id.as_bytes()),
                key: (key.exported)
                    .map(|exported| Secret(Zeroizing::new(base64(exported.key.expose())))),
                iv: key.exported.map(|exported| base64(exported.iv.as_bytes())),
                security_level: key.granted.rule.widevine as u8,
                required_output_protection: protection(&key.granted.rule),
            }
        });
        let labels = call.keys().map(|key| key.granted.label);
        let mut overrides = overrides(&call.grant.terms, call.now);
        if let Value::Object(members) = &mut overrides {
            members.extend(self.overrides.clone());
        }
        let request = Request {
            payload: STANDARD.encode(call.body),
            provider: &self.provider,
            content_id: Some(STANDARD.encode(call.challenge.asset.as_str())),
            allowed_track_types: Some(track_types(labels)),
            content_key_specs: keys.collect(),
            policy_overrides: Some(overrides),
            additions: &self.additions,
        };
        let mut reply = self.send(&request).await?;
        let license = decoded(&mut reply, "license")?;
        // What else it says of device and request is advice: nothing is decided by it, and none of it must be there. Much of
        // it tells one device from all others: it is for the record, and little of it is logged.
        let number = |name: &str| reply.get(name).and_then(Value::as_i64);
        tracing::debug!(
            security_level = number("security_level"),
            internal_status = number("internal_status"),
            "what the Widevine service says of the request"
        );
        Ok(Reply {
            content_type: HeaderValue::from_static("application/octet-stream"),
            body: license.into(),
            said: said::recorded(&reply),
        })
    }

    /// Asks for the service certificate, as a player without one does.
    pub(super) async fn certificate(&self) -> Result<Certificate, Miss> {
        let request = Request {
            payload: STANDARD.encode(CERTIFICATE_REQUEST),
            provider: &self.provider,
            content_id: None,
            allowed_track_types: None,
            content_key_specs: Vec::new(),
            policy_overrides: None,
            additions: &self.additions,
        };
        let mut reply = self.send(&request).await?;
        Certificate::read(&decoded(&mut reply, "license")?)
            .ok_or_else(|| Miss::Unfit("what it gives for a certificate is none".to_owned()))
    }

    /// The members of an answer whose status is OK.
    async fn send(&self, request: &Request<'_>) -> Result<Map<String, Value>, Miss> {
        let keys = SPEC * request.content_key_specs.len();
        let room = FRAME + self.additional + request.payload.len() + keys;
        let mut inner = Zeroizing::new(Vec::with_capacity(room));
        (serde_json::to_writer(&mut *inner, request))
            .map_err(|error| Miss::Unavailable(format!("the request: {error}")))?;
        let envelope = self.signer.envelope(&inner);
        let envelope = envelope.map_err(|error| Miss::Unavailable(error.to_string()))?;
        let answer = self
            .outbound
            .post(json_headers(), Bytes::from_owner(envelope));
        let mut members = members(&judged(answer.await?)?)?;
        match members.remove("status") {
            Some(Value::String(status)) if status == "OK" => Ok(members),
            // shaka-packager's tests retry on this one alone.
            Some(Value::String(status)) if status == "INTERNAL_ERROR" => {
                Err(Miss::Unavailable(format!("its status is {status}")))
            }
            Some(Value::String(status)) => {
                // A name of its protocol; what is none may be anything that it was sent.
                let is_name = status.len() <= 64
                    && (status.bytes()).all(|byte| byte.is_ascii_uppercase() || byte == b'_');
                let status = match is_name {
                    true => format!("its status is {status}"),
                    false => "its status is no name".to_owned(),
                };
                members.remove("license");
                let said = said::recorded(&members);
                Err(Miss::Refused(match said.is_empty() {
                    true => status,
                    false => format!("{status}, and it says {}", Value::Object(said)),
                }))
            }
            _ => Err(Miss::Unfit("its answer has no status".to_owned())),
        }
    }
}

/// The largest pictures among these.
fn track_types(labels: impl Iterator<Item = Label>) -> &'static str {
    let pictures = labels.filter(|label| *label != Label::Audio);
    match pictures.max() {
        Some(Label::Uhd2) => "SD_UHD2",
        Some(Label::Uhd1) => "SD_UHD1",
        Some(Label::Hd) => "SD_HD",
        Some(Label::Sd | Label::Audio) | None => "SD_ONLY",
    }
}

fn protection(rule: &KeyRule) -> Value {
    let hdcp = match rule.hdcp {
        _ if rule.no_digital => "HDCP_NO_DIGITAL_OUTPUT",
        Hdcp::None => "HDCP_NONE",
        Hdcp::V1 => "HDCP_V1",
        Hdcp::V2 => "HDCP_V2",
        Hdcp::V2_1 => "HDCP_V2_1",
        Hdcp::V2_2 => "HDCP_V2_2",
        Hdcp::V2_3 => "HDCP_V2_3",
    };
    match rule.no_analogue {
        true => json!({ "hdcp": hdcp, "disable_analog_output": true }),
        false => json!({ "hdcp": hdcp }),
    }
}

/// The terms as the service spells them; a duration of 0 is unlimited.
fn overrides(terms: &Terms, now: UnixTime) -> Value {
    let limit = |duration: Option<_>| duration.map_or(0, seconds);
    let mut overrides = json!({
        "can_play": true,
        "can_persist": terms.persistent,
        "can_renew": terms.renewal.is_some(),
        "license_duration_seconds": lasts(terms, now).unwrap_or(0),
        "rental_duration_seconds": limit(terms.rental_duration),
        "playback_duration_seconds": limit(terms.playback_duration),
    });
    if let (Value::Object(overrides), Some(renewal)) = (&mut overrides, &terms.renewal) {
        for (name, duration) in [
            ("renewal_delay_seconds", renewal.after),
            ("renewal_retry_interval_seconds", renewal.retry),
            ("renewal_recovery_duration_seconds", renewal.recovery),
        ] {
            overrides.insert(name.to_owned(), json!(seconds(duration)));
        }
    }
    overrides
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::terms::Renewal;

    #[test]
    fn the_largest_pictures_decide_the_track_types() {
        for (labels, expected) in [
            (&[][..], "SD_ONLY"),
            (&[Label::Audio], "SD_ONLY"),
            (&[Label::Sd, Label::Audio], "SD_ONLY"),
            (&[Label::Hd, Label::Sd], "SD_HD"),
            (&[Label::Uhd1, Label::Audio], "SD_UHD1"),
            (&[Label::Sd, Label::Uhd2], "SD_UHD2"),
        ] {
            assert_eq!(track_types(labels.iter().copied()), expected);
        }
    }

    #[test]
    fn terms_are_overrides_and_a_limit_is_never_zero() {
        let now = UnixTime::from_seconds(1000);
        let free = overrides(&Terms::default(), now);
        assert_eq!(free["license_duration_seconds"], 0);
        assert_eq!(
            (&free["can_persist"], &free["can_renew"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(free.get("renewal_delay_seconds"), None);
        let terms = Terms {
            persistent: true,
            expires: Some(UnixTime::from_seconds(1000)),
            license_duration: Some(Duration::from_secs(3600)),
            rental_duration: Some(Duration::from_millis(1)),
            playback_duration: Some(Duration::from_secs(7200)),
            renewal: Some(Renewal {
                after: Duration::from_secs(30),
                retry: Duration::from_millis(5),
                recovery: Duration::from_secs(90),
            }),
            ..Terms::default()
        };
        assert_eq!(
            overrides(&terms, now),
            json!({
                "can_play": true,
                "can_persist": true,
                "can_renew": true,
                "license_duration_seconds": 1,
                "rental_duration_seconds": 1,
                "playback_duration_seconds": 7200,
                "renewal_delay_seconds": 30,
                "renewal_retry_interval_seconds": 1,
                "renewal_recovery_duration_seconds": 90,
            })
        );
    }
}
