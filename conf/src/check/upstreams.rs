//! Licence services, and the certificates that players fetch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::SecretSource;
use crate::document::{CertificatesDocument, UpstreamDocument};
use crate::settings::{
    CertificateSettings, System, UpstreamBody, UpstreamKind, UpstreamPlace, UpstreamSettings,
};
use crate::units::Span;

/// The members of a request to a Widevine service that the licence server writes.
const WIDEVINE_MEMBERS: [&str; 5] = [
    "payload",
    "provider",
    "content_id",
    "allowed_track_types",
    "content_key_specs",
];

/// Those within its `policy_overrides`.
const WIDEVINE_OVERRIDES: [&str; 9] = [
    "can_play",
    "can_persist",
    "can_renew",
    "license_duration_seconds",
    "rental_duration_seconds",
    "playback_duration_seconds",
    "renewal_delay_seconds",
    "renewal_retry_interval_seconds",
    "renewal_recovery_duration_seconds",
];

/// Those of a request to a vendor in JSON.
const VENDOR_MEMBERS: [&str; 6] = ["version", "system", "asset", "challenge", "keys", "terms"];

impl Check<'_> {
    /// The upstreams in the order in which they are asked.
    pub(super) fn upstreams(
        &mut self,
        upstreams: BTreeMap<String, UpstreamDocument>,
    ) -> Vec<UpstreamSettings> {
        let mut ordered: Vec<_> = upstreams.into_iter().collect();
        ordered.sort_by_key(|(_, upstream)| upstream.order);
        let mut checked: Vec<UpstreamSettings> = Vec::new();
        for (name, upstream) in ordered {
            let key = format!("license.upstreams.{name}");
            self.name(&key, &name);
            let Some(settings) = self.upstream(&key, name, upstream) else {
                continue;
            };
            let unlike = |other: &&UpstreamSettings| {
                other.holds_keys != settings.holds_keys
                    && other.systems.iter().any(|it| settings.systems.contains(it))
                    && match (&other.assets, &settings.assets) {
                        (None, None) => true,
                        (Some(these), Some(those)) => these.iter().any(|it| those.contains(it)),
                        (None, Some(_)) | (Some(_), None) => false,
                    }
            };
            if let Some(other) = checked.iter().find(unlike) {
                let message = format!(
                    "is another than that of `{}`, for the same system and assets",
                    other.name
                );
                let help = "either all that stand in for each other have the content keys, or none";
                self.fault(&format!("{key}.holds_keys"), &message, help);
            }
            checked.push(settings);
        }
        checked
    }

    fn upstream(
        &mut self,
        key: &str,
        name: String,
        upstream: UpstreamDocument,
    ) -> Option<UpstreamSettings> {
        let kind = self.required(key, "kind", upstream.kind);
        let signing_key = self.secret(
            key,
            "signing_key",
            upstream.signing_key_file.clone(),
            upstream.signing_key_credential.clone(),
        );
        let secret = self.secret(
            key,
            "secret",
            upstream.secret_file.clone(),
            upstream.secret_credential.clone(),
        );
        let systems = kind.map(|kind| self.upstream_systems(key, kind, &upstream.systems));
        let assets = upstream.assets.clone();
        self.upstream_assets(key, assets.as_deref());
        let signer = kind.and_then(|kind| self.upstream_signer(key, kind, &upstream, signing_key));
        if let Some(kind) = kind {
            self.upstream_keys(key, kind, &upstream, secret.is_some());
        }
        let (least, most) = (Span(Duration::from_millis(100)), Span::seconds(30));
        self.within(&format!("{key}.timeout"), upstream.timeout, least, most);
        let in_flight = self.at_least_one(&format!("{key}.in_flight"), upstream.in_flight);
        let breaker_failures = self.at_least_one(
            &format!("{key}.breaker_failures"),
            upstream.breaker_failures,
        );
        let breaker_pause = self.positive(&format!("{key}.breaker_pause"), upstream.breaker_pause);
        let header = self.header(&format!("{key}.grant_header"), &upstream.grant_header);
        let (provider, holds_keys) = (upstream.provider.clone(), upstream.holds_keys);
        let (body, two_steps, timeout) = (upstream.body, upstream.two_steps, upstream.timeout.0);
        let request = upstream.request.clone().unwrap_or_default();
        if let Some(kind) = kind {
            self.upstream_request(key, kind, body, &request);
        }
        let place = self.upstream_place(key, upstream);
        Some(UpstreamSettings {
            name,
            kind: kind?,
            systems: systems?,
            assets,
            place: place?,
            holds_keys,
            provider,
            signer,
            grant: secret.map(|secret| (header, secret)),
            body,
            request,
            two_steps,
            timeout,
            in_flight,
            breaker_failures,
            breaker_pause,
        })
    }

    fn upstream_systems(
        &mut self,
        key: &str,
        kind: UpstreamKind,
        written: &[System],
    ) -> Vec<System> {
        let own = match kind {
            UpstreamKind::Widevine => System::Widevine,
            UpstreamKind::PlayReady => System::PlayReady,
            UpstreamKind::FairPlay => System::FairPlay,
            UpstreamKind::Vendor => {
                let mut once = written.to_vec();
                once.sort_unstable();
                once.dedup();
                if once.is_empty() || once.len() < written.len() || once.contains(&System::ClearKey)
                {
                    let message =
                        "names no system, one twice, or one that needs no licence service";
                    let help = "write systems = [\"widevine\", \"playready\"]";
                    self.fault(&format!("{key}.systems"), message, help);
                }
                return once;
            }
        };
        if !written.is_empty() {
            let message = "only a vendor answers for systems that are named";
            self.fault(&format!("{key}.systems"), message, "leave it out");
        }
        vec![own]
    }

    fn upstream_assets(&mut self, key: &str, assets: Option<&[String]>) {
        let key = format!("{key}.assets");
        if assets.is_some_and(<[_]>::is_empty) {
            let help = "leave it out for an upstream of all assets that no other names";
            self.fault(&key, "names no asset", help);
        }
        for (at, asset) in assets.into_iter().flatten().enumerate() {
            self.name(&format!("{key}[{at}]"), asset);
        }
    }

    /// Who signs, where somebody must or may.
    fn upstream_signer(
        &mut self,
        key: &str,
        kind: UpstreamKind,
        upstream: &UpstreamDocument,
        signing_key: Option<SecretSource>,
    ) -> Option<(String, SecretSource)> {
        let may = match kind {
            UpstreamKind::Widevine => true,
            UpstreamKind::Vendor => upstream.body == UpstreamBody::Json,
            UpstreamKind::PlayReady | UpstreamKind::FairPlay => false,
        };
        if kind == UpstreamKind::Widevine {
            self.required(key, "provider", upstream.provider.as_ref());
            self.required(key, "signer", upstream.signer.as_ref());
            self.required(key, "signing_key_file", signing_key.as_ref());
        }
        match (upstream.signer.clone(), signing_key) {
            (Some(_), _) | (_, Some(_)) if !may => {
                let message = "only requests to Widevine services and JSON bodies are signed";
                let help = "leave signer and its key out, or set body = \"json\" for a vendor";
                self.fault(&format!("{key}.signer"), message, help);
                None
            }
            (Some(signer), Some(signing_key)) => Some((signer, signing_key)),
            (None, None) => None,
            _ if kind == UpstreamKind::Widevine => None,
            _ => {
                let message = "a signer and its key go together";
                let help = "set signer, and signing_key_file or signing_key_credential";
                self.fault(&format!("{key}.signer"), message, help);
                None
            }
        }
    }

    /// Whether the content keys have a way to it, and no setting is without meaning.
    fn upstream_keys(
        &mut self,
        key: &str,
        kind: UpstreamKind,
        upstream: &UpstreamDocument,
        secret: bool,
    ) {
        let by_grant = matches!(kind, UpstreamKind::PlayReady | UpstreamKind::Vendor);
        if by_grant && !upstream.holds_keys && !secret {
            let message = "there is no way for content keys to it";
            let help =
                "set secret_file or secret_credential, or holds_keys = true where it has them";
            self.fault(key, message, help);
        }
        if !by_grant && secret {
            let message = "no grant goes along to an upstream of this kind";
            self.fault(&format!("{key}.secret_file"), message, "leave it out");
        }
        if upstream.two_steps && kind != UpstreamKind::FairPlay {
            let message = "only FairPlay modules are asked in two steps";
            self.fault(&format!("{key}.two_steps"), message, "leave it out");
        }
        if upstream.body == UpstreamBody::Json && kind != UpstreamKind::Vendor {
            let message = "only what is sent to a vendor can be chosen";
            self.fault(&format!("{key}.body"), message, "leave it out");
        }
    }

    /// Members of requests that are not Castellum's own.
    fn upstream_request(
        &mut self,
        key: &str,
        kind: UpstreamKind,
        body: UpstreamBody,
        request: &toml::Table,
    ) {
        let key = format!("{key}.request");
        let own: &[&str] = match (kind, body) {
            (UpstreamKind::Widevine, _) => &WIDEVINE_MEMBERS,
            (UpstreamKind::Vendor, UpstreamBody::Json) => &VENDOR_MEMBERS,
            (UpstreamKind::Vendor | UpstreamKind::PlayReady | UpstreamKind::FairPlay, _) => {
                if !request.is_empty() {
                    let message = "nothing is added to what is sent to this upstream";
                    let help = "leave it out, or set body = \"json\" for a vendor";
                    self.fault(&key, message, help);
                }
                return;
            }
        };
        self.additions(&key, own, request);
        if kind == UpstreamKind::Widevine
            && let Some(overrides) = request.get("policy_overrides")
        {
            let key = format!("{key}.policy_overrides");
            match overrides {
                toml::Value::Table(overrides) => {
                    self.additions(&key, &WIDEVINE_OVERRIDES, overrides);
                }
                _ => self.fault(&key, "is no table", "write { name = value }"),
            }
        }
    }

    fn additions(&mut self, key: &str, own: &[&str], members: &toml::Table) {
        for (name, value) in members {
            let key = format!("{key}.{name}");
            if own.contains(&name.as_str()) {
                let help =
                    "leave it out: tokens, policies and the settings of the upstream decide it";
                self.fault(&key, "is written by the licence server", help);
            }
            if !is_json(value) {
                self.fault(&key, "holds what JSON cannot", "write finite numbers");
            }
        }
    }

    fn upstream_place(&mut self, key: &str, upstream: UpstreamDocument) -> Option<UpstreamPlace> {
        let identity = self.client_identity(
            key,
            upstream.certificate,
            upstream.key_file,
            upstream.key_credential,
        );
        let ca_file = self.absolute(&format!("{key}.ca_file"), upstream.ca_file);
        match (upstream.url, upstream.socket) {
            (Some(url), None) => {
                let (tls, authority, path) = self.remote(&format!("{key}.url"), &url)?;
                if identity.is_some() && !tls {
                    let message = "is shown by TLS only";
                    self.fault(&format!("{key}.certificate"), message, "leave it out");
                }
                Some(UpstreamPlace::Url {
                    tls,
                    authority,
                    path,
                    ca_file,
                    identity,
                })
            }
            (None, Some(socket)) => {
                if !upstream.path.starts_with('/') {
                    let message = "is no path of a URL";
                    self.fault(&format!("{key}.path"), message, "begin it with a slash");
                }
                Some(UpstreamPlace::Socket {
                    socket: self.absolute(&format!("{key}.socket"), socket),
                    path: upstream.path,
                })
            }
            _ => {
                let message = "has no URL and no socket, or both";
                self.fault(key, message, "set url or socket");
                None
            }
        }
    }

    pub(super) fn certificates(
        &mut self,
        certificates: CertificatesDocument,
    ) -> CertificateSettings {
        let table = "license.certificates";
        let mut path = |name: &str, file: Option<PathBuf>| {
            file.map(|file| self.absolute(&format!("{table}.{name}"), file))
        };
        let widevine = path("widevine_file", certificates.widevine_file);
        let fairplay = path("fairplay_file", certificates.fairplay_file);
        let mut fairplay_assets = BTreeMap::new();
        for (name, certificate) in certificates.fairplay {
            let key = format!("{table}.fairplay.{name}");
            let file = self.required(&key, "file", certificate.file);
            let assets = self.required(&key, "assets", certificate.assets);
            let Some(file) = file.map(|file| self.absolute(&format!("{key}.file"), file)) else {
                continue;
            };
            for asset in assets.into_iter().flatten() {
                if fairplay_assets
                    .insert(asset.clone(), file.clone())
                    .is_some()
                {
                    let message = format!("`{asset}` has a certificate already");
                    self.fault(
                        &format!("{key}.assets"),
                        &message,
                        "an asset has one certificate",
                    );
                }
            }
        }
        CertificateSettings {
            widevine,
            fairplay,
            fairplay_assets,
        }
    }
}

/// Whether JSON has the value, which has no infinite numbers. Times were read as strings.
fn is_json(value: &toml::Value) -> bool {
    match value {
        toml::Value::String(_) | toml::Value::Integer(_) | toml::Value::Boolean(_) => true,
        toml::Value::Float(number) => number.is_finite(),
        toml::Value::Datetime(_) => false,
        toml::Value::Array(values) => values.iter().all(is_json),
        toml::Value::Table(members) => members.values().all(is_json),
    }
}
