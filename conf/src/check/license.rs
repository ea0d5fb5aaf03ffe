//! `[license]`: the licence server and who may say what a viewer is entitled to.

use std::collections::BTreeMap;

use super::{Check, Shared};
use crate::document::{IssuerDocument, LicenseDocument};
use crate::settings::{
    AdminSettings, IssuerSettings, LicensePolicySettings, LicenseSettings, RequestLimits,
    TokenAlgorithm, Transport,
};
use crate::units::Size;

impl Check<'_> {
    pub(super) fn license(
        &mut self,
        license: LicenseDocument,
        policies: BTreeMap<String, LicensePolicySettings>,
        shared: &Shared,
    ) -> LicenseSettings {
        let transport = Transport::Tls {
            h3: license.tls.h3,
            alt_svc: false,
        };
        let state_dir = self.absolute("license.state_dir", license.state_dir);
        let limits = license.limits;
        LicenseSettings {
            public_url: shared.license_url.clone(),
            workers: self.workers("license.workers", license.workers),
            listeners: self.listeners(
                "license",
                license.tls.listen,
                transport,
                license.plain.listen,
            ),
            admin: AdminSettings {
                address: license.admin.listen.0,
                hosts: license.admin.hosts,
            },
            tls: self.tls(
                "license.tls",
                license.tls.certificate,
                license.tls.key_file,
                license.tls.key_credential,
                &state_dir,
            ),
            limits: RequestLimits {
                header_bytes: self.bytes(
                    "license.limits.header",
                    limits.header,
                    Size(4 << 10),
                    Size(256 << 10),
                ),
                header_timeout: self
                    .positive("license.limits.header_timeout", limits.header_timeout),
                idle_timeout: self.positive("license.limits.idle_timeout", limits.idle_timeout),
                connections: self.at_least_one("license.limits.connections", limits.connections),
                in_flight: self.at_least_one("license.limits.in_flight", limits.in_flight),
                streams: self.streams("license.limits.streams", limits.streams),
            },
            body_bytes: self.bytes(
                "license.limits.body",
                limits.body,
                Size(1 << 10),
                Size(16 << 20),
            ),
            state_dir,
            drain: shared.drain,
            token_header: self.header("license.token_header", &license.token_header),
            issuers: self.issuers(license.issuers),
            exchange: self.exchange(license.exchange, license.tls.listen.0.is_some()),
            policies,
            tenant: shared.tenant.clone(),
        }
    }

    fn issuers(&mut self, issuers: Vec<IssuerDocument>) -> Vec<IssuerSettings> {
        let mut checked: Vec<IssuerSettings> = Vec::new();
        for (index, issuer) in issuers.into_iter().enumerate() {
            let key = format!("license.issuers[{index}]");
            let secret = self.secret(&key, "key", issuer.key_file, issuer.key_credential);
            let name = self.required(&key, "name", issuer.name);
            let claim = self.required(&key, "issuer", issuer.issuer);
            let audience = self.required(&key, "audience", issuer.audience);
            let algorithm: Option<TokenAlgorithm> =
                self.required(&key, "algorithm", issuer.algorithm);
            let secret = self.required(&key, "key_file", secret);
            let (Some(name), Some(claim), Some(audience), Some(algorithm), Some(secret)) =
                (name, claim, audience, algorithm, secret)
            else {
                continue;
            };
            if checked.iter().any(|other| other.name == name) {
                self.fault(
                    &format!("{key}.name"),
                    "two issuers have this name",
                    "choose another",
                );
            }
            if checked
                .iter()
                .any(|other| other.issuer == claim && other.key_id == issuer.key_id)
            {
                self.fault(
                    &format!("{key}.issuer"),
                    "two issuers have this `iss` and no key_id that tells them apart",
                    "give each a key_id",
                );
            }
            let issuer = IssuerSettings {
                name,
                issuer: claim,
                audience,
                key_id: issuer.key_id,
                algorithm,
                key: secret,
            };
            checked.push(issuer);
        }
        checked
    }
}
