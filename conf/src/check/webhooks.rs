//! What is told to others, and what they are asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Check;
use crate::SecretSource;
use crate::document::{AuthorisationDocument, WebhookDocument};
use crate::settings::{AuthorisationSettings, HookSettings, WebhookSettings};
use crate::units::Span;

impl Check<'_> {
    pub(super) fn webhooks(
        &mut self,
        webhooks: BTreeMap<String, WebhookDocument>,
    ) -> BTreeMap<String, WebhookSettings> {
        let mut checked = BTreeMap::new();
        for (name, webhook) in webhooks {
            let table = format!("license.webhooks.{name}");
            self.name(&table, &name);
            let secret = self.secret(
                &table,
                "secret",
                webhook.secret_file,
                webhook.secret_credential,
            );
            let events = self.required(&table, "events", webhook.events);
            if events.as_ref().is_some_and(Vec::is_empty) {
                let message = "is empty, so nothing is told";
                self.fault(
                    &format!("{table}.events"),
                    message,
                    "write events = [\"granted\"]",
                );
            }
            let url = self.required(&table, "url", webhook.url);
            let hook = self.hook(&table, url, secret, webhook.ca_file, webhook.timeout);
            if let (Some(hook), Some(events)) = (hook, events) {
                checked.insert(name, WebhookSettings { hook, events });
            }
        }
        checked
    }

    pub(super) fn authorisation(
        &mut self,
        asked: AuthorisationDocument,
    ) -> Option<AuthorisationSettings> {
        let table = "license.authorisation";
        let secret = self.secret(table, "secret", asked.secret_file, asked.secret_credential);
        let (least, most) = (Span::seconds(0), Span::seconds(3600));
        self.within("license.authorisation.cache", asked.cache, least, most);
        if asked.url.is_none() {
            if secret.is_some() {
                self.fault(
                    "license.authorisation.url",
                    "is not set, so nobody is asked",
                    "write url = \"https://shop.example.com/authorise\", or leave the whole table out",
                );
            }
            return None;
        }
        let hook = self.hook(table, asked.url, secret, asked.ca_file, asked.timeout)?;
        Some(AuthorisationSettings {
            hook,
            cache: asked.cache.0,
            fail_open: asked.fail_open,
        })
    }

    fn hook(
        &mut self,
        table: &str,
        url: Option<String>,
        secret: Option<SecretSource>,
        ca_file: PathBuf,
        timeout: Span,
    ) -> Option<HookSettings> {
        let secret = self.required(table, "secret_file", secret);
        let ca_file = self.absolute(&format!("{table}.ca_file"), ca_file);
        let timeout = self.positive(&format!("{table}.timeout"), timeout);
        let (tls, authority, path) = self.remote(&format!("{table}.url"), &url?)?;
        Some(HookSettings {
            table: table.to_owned(),
            tls,
            authority,
            path,
            secret: secret?,
            ca_file,
            timeout,
        })
    }
}
