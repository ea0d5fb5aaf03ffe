//! `[license]`: the licence server.

use std::collections::BTreeMap;

use super::{Check, Shared};
use crate::document::{LicenseDocument, LicenseLimitsDocument};
use crate::settings::{
    AdminSettings, AdmissionSettings, DecisionsSettings, LicensePolicySettings, LicenseSettings,
    RequestLimits, Transport,
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
        if let Some(name) = &license.default_policy
            && !policies.contains_key(name)
        {
            let known: Vec<&str> = policies.keys().map(String::as_str).collect();
            self.fault(
                "license.default_policy",
                &format!("there is no policy `{name}`"),
                &format!("there are: {}", known.join(", ")),
            );
        }
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
            api_token: self.secret(
                "license.admin",
                "token",
                license.admin.token_file,
                license.admin.token_credential,
            ),
            tls: self.tls(
                "license.tls",
                license.tls.certificate,
                license.tls.key_file,
                license.tls.key_credential,
                &state_dir,
            ),
            admission: self.admission(&limits),
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
            token_query: (license.token_query)
                .map(|name| self.parameter("license.token_query", name)),
            token_cache_bytes: self.bytes(
                "license.token_cache",
                license.token_cache,
                Size(0),
                Size::mebibytes(4096),
            ),
            log_full_addresses: license.log_full_addresses,
            issuers: self.issuers(license.issuers),
            exchange: self.exchange(license.exchange, license.tls.listen.0.is_some()),
            default_policy: license.default_policy,
            decisions: DecisionsSettings {
                capacity: self.bytes(
                    "license.decisions.capacity",
                    license.decisions.capacity,
                    Size::mebibytes(1),
                    Size::mebibytes(1 << 20),
                ) as u64,
            },
            sessions: self.sessions(
                license.sessions,
                license.store,
                license.access,
                &license.rates,
                license.webhooks,
                license.authorisation,
            ),
            upstreams: self.upstreams(license.upstreams),
            certificates: self.certificates(license.certificates),
            policies,
            tenant: shared.tenant.clone(),
        }
    }

    fn admission(&mut self, limits: &LicenseLimitsDocument) -> AdmissionSettings {
        let at_once = self.at_least_one("license.limits.at_once", limits.at_once);
        if at_once >= limits.in_flight {
            let most = limits.in_flight.saturating_sub(1);
            self.fault(
                "license.limits.at_once",
                "is not less than `in_flight`, so that nobody could wait",
                &format!("set it to {most} or less, or `in_flight` to more"),
            );
        }
        let waiting = limits.in_flight.saturating_sub(at_once);
        AdmissionSettings {
            at_once,
            queue_time: self.positive("license.limits.queue_time", limits.queue_time),
            starts_waiting: waiting.div_ceil(2),
            renewals_waiting: waiting,
        }
    }
}
