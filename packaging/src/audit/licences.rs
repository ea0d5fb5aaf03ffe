//! Asking for licences where manifests say, as a player would: EME ClearKey requests and HLS identity keys. Of licensed
//! systems only the door is tried, since a challenge comes from a device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keystore_types::{ContentKey, KeyId};
use serde::Deserialize;
use url::{Host, Url};
use zeroize::{Zeroize as _, Zeroizing};

use super::fetch::{Fetcher, Unserved};
use super::finding::{Fault, Finding, Place, shown};
use super::system::System;
use super::{Looked, Plan};

/// Bytes of a licence.
const MAX_LICENSE: usize = 256 << 10;
/// Licence URLs that are asked; a title of ours has one for each system and key.
const MAX_URLS: usize = 64;

/// What is shown to a licence server. It is in no text.
pub(crate) struct Token(Zeroizing<String>);

impl Token {
    /// Takes what stands in a file or on a command line.
    pub(crate) fn new(mut text: String) -> Self {
        let token = Self(Zeroizing::new(text.trim().to_owned()));
        text.zeroize();
        token
    }

    /// What a JWT claims, unverified; `None` where it is none.
    pub(crate) fn claims(&self) -> Option<serde_json::Value> {
        let payload = self.0.split('.').nth(1)?;
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&payload).ok()
    }

    fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.as_str()));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A URL that is to be asked, and for what.
struct Ask {
    place: Place,
    key_ids: BTreeSet<KeyId>,
}

/// The keys that licences give, by id.
pub(super) async fn ask(
    fetcher: &mut Fetcher,
    looked: &[Looked],
    plan: &Plan<'_>,
    findings: &mut Vec<Finding>,
    notes: &mut Vec<String>,
) -> BTreeMap<KeyId, ContentKey> {
    let mut keys = BTreeMap::new();
    let mut refused = Vec::new();
    let asks = asks(looked, plan.license_url.as_ref(), findings);
    if asks.len() > MAX_URLS {
        notes.push(format!(
            "of {} licence URLs, {MAX_URLS} were asked",
            asks.len()
        ));
    }
    for ((system, url), ask) in asks.into_iter().take(MAX_URLS) {
        let mut talk = Talk {
            fetcher,
            url: &url,
            system,
            ask: &ask,
            findings,
            refused: &mut refused,
            notes,
        };
        match system {
            System::ClearKey | System::Identity => {
                talk.license(plan.token.as_ref(), &mut keys).await
            }
            System::Common
            | System::Widevine
            | System::PlayReady
            | System::FairPlay
            | System::Other => {
                talk.knock().await;
            }
        }
    }
    // A licence may withhold some keys, and where each has a URL of its own, that URL refuses.
    match keys.is_empty() {
        true => findings.extend(refused),
        false => notes.extend(refused.into_iter().map(|finding: Finding| finding.what)),
    }
    keys
}

fn asks(
    looked: &[Looked],
    instead: Option<&Url>,
    findings: &mut Vec<Finding>,
) -> BTreeMap<(System, Url), Ask> {
    let mut asks: BTreeMap<(System, Url), Ask> = BTreeMap::new();
    for looked in looked {
        for (track, parts) in looked.tracks() {
            let signalled = track.signals.iter().find_map(|signal| signal.key_id);
            let key_id = parts.key_id().or(signalled.map(KeyId::new));
            let mut add = |system, url: &Url, at: &str| {
                let ask = asks.entry((system, url.clone())).or_insert_with(|| Ask {
                    place: looked.place(track, at),
                    key_ids: BTreeSet::new(),
                });
                ask.key_ids.extend(key_id);
            };
            if let Some(url) = instead
                && !track.signals.is_empty()
            {
                add(System::ClearKey, url, "--license-url");
            }
            for signal in &track.signals {
                for (what, url) in &signal.license_urls {
                    let at = format!("{}/{what}", signal.at);
                    if !is_safe(url) {
                        findings.push(Finding::new(
                            Fault::LicenseUrlInsecure,
                            looked.place(track, &at),
                            format!("{} is asked for licences of {}", shown(url), signal.system),
                        ));
                    }
                    let replaced = instead.is_some()
                        && matches!(signal.system, System::ClearKey | System::Identity);
                    if !replaced {
                        add(signal.system, url, &at);
                    }
                }
            }
        }
    }
    asks
}

/// Whether what is sent there is read by nobody else: HTTPS, or this host.
fn is_safe(url: &Url) -> bool {
    let on_this_host = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && on_this_host)
}

struct Talk<'a> {
    fetcher: &'a mut Fetcher,
    url: &'a Url,
    system: System,
    ask: &'a Ask,
    findings: &'a mut Vec<Finding>,
    /// Refusals, which are faults only where nothing is given.
    refused: &'a mut Vec<Finding>,
    notes: &'a mut Vec<String>,
}

impl Talk<'_> {
    async fn license(&mut self, token: Option<&Token>, keys: &mut BTreeMap<KeyId, ContentKey>) {
        let mut headers = HeaderMap::new();
        let bearer = token.and_then(Token::header);
        match bearer {
            Some(bearer) if is_safe(self.url) => {
                headers.insert(header::AUTHORIZATION, bearer);
            }
            Some(_) => {
                let place = shown(self.url);
                self.notes.push(format!(
                    "{place}: the token was not sent, since others could read it"
                ));
            }
            None => {}
        }
        let shown_token = headers.contains_key(header::AUTHORIZATION);
        let body = match self.system {
            System::Identity => None,
            _ => {
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                );
                let kids: Vec<_> = self.ask.key_ids.iter().map(KeyId::to_base64url).collect();
                if kids.is_empty() {
                    return;
                }
                let body = serde_json::json!({ "kids": kids, "type": "temporary" });
                Some(Bytes::from(body.to_string()))
            }
        };
        let answer = self
            .fetcher
            .license(self.url, headers, body, MAX_LICENSE)
            .await;
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(Unserved::Bound) => return,
            Err(error) => return self.find(Fault::LicenseUnreachable, error.to_string()),
        };
        let place = shown(self.url);
        match status {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !shown_token => {
                let note =
                    format!("{place} answers {status}: without a token no licence is looked at");
                return self.notes.push(note);
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                let ids: Vec<_> = self.ask.key_ids.iter().map(KeyId::to_string).collect();
                let what = format!(
                    "{place} answers {status} to a request for {}",
                    ids.join(", ")
                );
                let finding = Finding::new(Fault::LicenseRefused, self.ask.place.clone(), what);
                return self.refused.push(finding);
            }
            status => {
                return self.find(
                    Fault::LicenseUnreachable,
                    format!("{place} answers {status}"),
                );
            }
        }
        let taken = match self.system {
            System::Identity => {
                let mut key = Zeroizing::new([0; 16]);
                match <&[u8; 16]>::try_from(&*body) {
                    Ok(bytes) => {
                        key.copy_from_slice(bytes);
                        for key_id in &self.ask.key_ids {
                            keys.entry(*key_id)
                                .or_insert_with(|| ContentKey::take(&mut key.clone()));
                        }
                        Ok(())
                    }
                    Err(_) => Err("what it answers is not the 16 bytes of a key"),
                }
            }
            _ => take_set(&body, keys),
        };
        if let Err(what) = taken {
            return self.find(Fault::LicenseUnreachable, format!("{place}: {what}"));
        }
        for key_id in &self.ask.key_ids {
            if !keys.contains_key(key_id) {
                self.notes
                    .push(format!("{place}: the licence holds no key {key_id}"));
            }
        }
    }

    /// Whether whoever is there takes challenges. A service of Widevine takes this one as a request for its certificate.
    async fn knock(&mut self) {
        let body = match self.system {
            System::Widevine => Bytes::from_static(&[8, 4]),
            _ => Bytes::new(),
        };
        let answer = self
            .fetcher
            .license(self.url, HeaderMap::new(), Some(body), MAX_LICENSE)
            .await;
        let what = match answer {
            Err(Unserved::Bound) => return,
            Err(error) => error.to_string(),
            Ok((status, _)) => {
                let gone = [
                    StatusCode::NOT_FOUND,
                    StatusCode::METHOD_NOT_ALLOWED,
                    StatusCode::GONE,
                ];
                let takes =
                    status.is_success() || (status.is_client_error() && !gone.contains(&status));
                if takes {
                    return;
                }
                format!("{} answers a challenge with {status}", shown(self.url))
            }
        };
        self.find(Fault::LicenseUnreachable, what);
    }

    fn find(&mut self, fault: Fault, what: String) {
        let place = self.ask.place.clone();
        self.findings.push(Finding::new(fault, place, what));
    }
}

/// A JWK Set (RFC 7517 5) as EME has it.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize, zeroize::ZeroizeOnDrop)]
struct Jwk {
    kid: String,
    k: String,
}

fn take_set(body: &[u8], keys: &mut BTreeMap<KeyId, ContentKey>) -> Result<(), &'static str> {
    let set: KeySet = serde_json::from_slice(body).map_err(|_| "what it answers is no JWK Set")?;
    if set.keys.is_empty() {
        return Err("the licence holds no key");
    }
    for jwk in &set.keys {
        let decoded = |text: &str| -> Option<Zeroizing<[u8; 16]>> {
            let text = text.trim_end_matches('=');
            let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
            Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
        };
        let (Some(kid), Some(mut key)) = (decoded(&jwk.kid), decoded(&jwk.k)) else {
            return Err("a key of the licence has not 16 bytes in base64url");
        };
        keys.entry(KeyId::new(*kid))
            .or_insert_with(|| ContentKey::take(&mut key));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwk_set_is_taken_or_told_what_it_lacks() {
        let mut keys = BTreeMap::new();
        let set = br#"{"keys":[{"kty":"oct","kid":"nrQFDeRLSAKTLifXUIPiZg","k":"FmY0xnWCPCNaSpRG-tUuTQ"}],"type":"temporary"}"#;
        take_set(set, &mut keys).unwrap();
        let key_id: KeyId = "9eb4050d-e44b-4802-932e-27d75083e266".parse().unwrap();
        assert_eq!(keys[&key_id].expose()[..2], [0x16, 0x66]);
        for body in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"kid":"AA","k":"AA"}]}"#,
        ] {
            assert!(take_set(body.as_bytes(), &mut keys).is_err(), "{body}");
        }
    }

    #[test]
    fn tokens_go_where_nobody_else_reads() {
        for (url, safe) in [
            ("https://l.example/", true),
            ("http://l.example/", false),
            ("http://127.0.0.1:8081/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://localhost.example/", false),
            ("skd://127.0.0.1", false),
        ] {
            assert_eq!(is_safe(&Url::parse(url).unwrap()), safe, "{url}");
        }
        let token = Token::new(" a.eyJwb2xpY3kiOiJ4In0.c\n".to_owned());
        assert_eq!(token.claims().unwrap()["policy"], "x");
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(token.header().unwrap().is_sensitive());
    }
}
