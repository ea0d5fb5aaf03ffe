//! Who may have a licence now, from where and how often.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Check;
use crate::document::{
    AccessDocument, AuthorisationDocument, LicenseStoreDocument, PostgresDocument, RatesDocument,
    SessionsDocument, WebhookDocument,
};
use crate::settings::{
    AccessSettings, AddressBlock, LicenseStoreSettings, RateSettings, RevocationSettings,
    SessionSettings,
};
use crate::units::Span;

impl Check<'_> {
    pub(super) fn sessions(
        &mut self,
        sessions: SessionsDocument,
        store: LicenseStoreDocument,
        access: AccessDocument,
        rates: &RatesDocument,
        webhooks: BTreeMap<String, WebhookDocument>,
        authorisation: AuthorisationDocument,
    ) -> SessionSettings {
        let mut within = |name: &str, span: Span, least: u64, most: u64| {
            let key = format!("license.sessions.{name}");
            self.within(&key, span, Span::seconds(least), Span::seconds(most));
            span.0
        };
        let lease = within("lease", sessions.lease, 10, 86_400);
        let grace = within("grace", sessions.grace, 0, 3600);
        let device_term = within("device_term", sessions.device_term, 3600, 8760 * 3600);
        let retry_window = within("retry_window", sessions.retry_window, 0, 3600);
        let interval = within("revocation_interval", sessions.revocation_interval, 1, 3600);
        let staleness = within(
            "revocation_staleness",
            sessions.revocation_staleness,
            2,
            86_400,
        );
        if sessions.revocations && staleness < 2 * interval {
            self.fault(
                "license.sessions.revocation_staleness",
                "is less than twice revocation_interval, so one missed look would stop all licences",
                "set it to 1m",
            );
        }
        let mut header = |name: &str, header: Option<String>| {
            let key = format!("license.sessions.{name}");
            header.map(|header| self.header(&key, &header))
        };
        let session_header = header("session_header", sessions.session_header);
        let device_header = header("device_header", sessions.device_header);
        if sessions.devices > 0 && device_header.is_none() {
            self.fault(
                "license.sessions.device_header",
                "is not set, so no device has a name to be counted by",
                "write device_header = \"X-Device-Id\", or devices = 0",
            );
        }
        SessionSettings {
            streams: (sessions.streams > 0).then_some(sessions.streams),
            lease,
            grace,
            session_header,
            devices: (sessions.devices > 0).then_some(sessions.devices),
            device_term,
            device_header,
            single_use: sessions.single_use,
            retry_window,
            revocations: (sessions.revocations).then_some(RevocationSettings {
                interval,
                staleness,
            }),
            store: self.license_store(store),
            access: self.access(access),
            rates: RateSettings {
                tenant: rates.tenant,
                address: rates.address,
                subject: rates.subject,
                key: rates.key,
            },
            webhooks: self.webhooks(webhooks),
            authorisation: self.authorisation(authorisation),
        }
    }

    fn license_store(&mut self, store: LicenseStoreDocument) -> LicenseStoreSettings {
        if !(1000..=100_000_000).contains(&store.capacity) {
            self.fault(
                "license.store.capacity",
                &format!("{} is not within 1000 to 100000000", store.capacity),
                "set it to 1000000",
            );
        }
        let postgres = store.postgres;
        let postgres = PostgresDocument {
            url: postgres.url,
            password_file: postgres.password_file,
            password_credential: postgres.password_credential,
            ca_file: postgres.ca_file,
            connections: postgres.connections,
            timeout: postgres.timeout,
            // Nothing is answered here without the database.
            survival: Span(Duration::ZERO),
        };
        LicenseStoreSettings {
            capacity: store.capacity,
            postgres: self.postgres("license.store.postgres", postgres),
        }
    }

    fn access(&mut self, access: AccessDocument) -> AccessSettings {
        let mut header = |name: &str, header: Option<String>| {
            let key = format!("license.access.{name}");
            let header = header.map(|header| self.header(&key, &header));
            if header.is_some() && access.proxies.is_empty() {
                self.fault(
                    &key,
                    "nobody is believed in it: any client could send it",
                    "set license.access.proxies",
                );
            }
            header
        };
        let address_header = header("address_header", access.address_header);
        let country_header = header("country_header", access.country_header);
        let country_file =
            (access.country_file).map(|path| self.absolute("license.access.country_file", path));
        let countries = self.countries("countries", access.countries);
        let denied_countries = self.countries("denied_countries", access.denied_countries);
        let asked = !countries.is_empty() || !denied_countries.is_empty();
        if asked && country_header.is_none() && country_file.is_none() {
            self.fault(
                "license.access",
                "nothing tells in which country a client is",
                "set country_header or country_file",
            );
        }
        AccessSettings {
            proxies: self.blocks("proxies", &access.proxies),
            address_header,
            country_header,
            country_file,
            allow: self.blocks("allow", &access.allow),
            deny: self.blocks("deny", &access.deny),
            countries,
            denied_countries,
        }
    }

    fn blocks(&mut self, name: &str, written: &[String]) -> Vec<AddressBlock> {
        let mut blocks = Vec::with_capacity(written.len());
        for (index, text) in written.iter().enumerate() {
            match text.parse() {
                Ok(block) => blocks.push(block),
                Err(error) => {
                    let key = format!("license.access.{name}[{index}]");
                    let message = format!("`{text}` is no block of addresses");
                    let error: crate::settings::AddressBlockError = error;
                    self.fault(&key, &message, &error.to_string());
                }
            }
        }
        blocks
    }

    fn countries(&mut self, name: &str, written: Vec<String>) -> Vec<String> {
        for (index, country) in written.iter().enumerate() {
            let letters = country.bytes().all(|letter| letter.is_ascii_alphabetic());
            if !letters || country.len() != 2 {
                self.fault(
                    &format!("license.access.{name}[{index}]"),
                    &format!("`{country}` is no country of two letters"),
                    "such as SE (ISO 3166-1)",
                );
            }
        }
        let upper = written.iter().map(|country| country.to_ascii_uppercase());
        upper.collect()
    }
}
