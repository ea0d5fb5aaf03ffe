//! Issuers of entitlement tokens.

use std::time::Duration;

use super::Check;
use crate::SecretSource;
use crate::document::IssuerDocument;
use crate::settings::{IssuerKeys, IssuerSettings, KeyPlace, KidRule, TokenAlgorithm, TokenShape};
use crate::units::Span;

/// Where an OpenID provider's discovery document is, below its issuer URL (OpenID Connect Discovery 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

impl Check<'_> {
    pub(super) fn issuers(&mut self, issuers: Vec<IssuerDocument>) -> Vec<IssuerSettings> {
        let mut checked: Vec<IssuerSettings> = Vec::new();
        for (index, issuer) in issuers.into_iter().enumerate() {
            let key = format!("license.issuers[{index}]");
            let Some(issuer) = self.issuer(&key, issuer) else {
                continue;
            };
            if checked.iter().any(|other| other.name == issuer.name) {
                let message = "two issuers have this name";
                self.fault(&format!("{key}.name"), message, "choose another");
            }
            let alike = |other: &IssuerSettings| {
                let same_sets = !matches!(other.keys, IssuerKeys::One(_))
                    == !matches!(issuer.keys, IssuerKeys::One(_));
                other.shape == issuer.shape
                    && other.issuer == issuer.issuer
                    && other.key_id == issuer.key_id
                    && same_sets
            };
            if checked.iter().any(alike) {
                self.fault(
                    &format!("{key}.issuer"),
                    "two issuers have this `iss` and no key_id that tells them apart",
                    "give each a key_id",
                );
            }
            checked.push(issuer);
        }
        checked
    }

    fn issuer(&mut self, key: &str, issuer: IssuerDocument) -> Option<IssuerSettings> {
        let name = self.required(key, "name", issuer.name.clone());
        let (claim, audience, key_id) = match issuer.shape {
            TokenShape::Native => {
                let claim = self.required(key, "issuer", issuer.issuer.clone());
                let audience = self.required(key, "audience", issuer.audience.clone());
                (Some(claim?), Some(audience?), issuer.key_id.clone())
            }
            TokenShape::DashIf => {
                let (claim, audience) = (issuer.issuer.clone(), issuer.audience.clone());
                if issuer.discovery && audience.is_none() {
                    self.required(key, "audience", audience.clone())?;
                }
                (claim, audience, issuer.key_id.clone())
            }
            TokenShape::Axinom => {
                for (name, set) in [("issuer", &issuer.issuer), ("audience", &issuer.audience)] {
                    if set.is_some() {
                        let message = "an entitlement message has no such claim";
                        let help = "leave it out: key_id tells whose the message is";
                        self.fault(&format!("{key}.{name}"), message, help);
                    }
                }
                let key_id = self.required(key, "key_id", issuer.key_id.clone());
                (None, None, Some(key_id?))
            }
        };
        let leeway = issuer.leeway;
        let (least, most) = (Span(Duration::ZERO), Span::seconds(600));
        self.within(&format!("{key}.leeway"), leeway, least, most);
        if let Some(longest) = issuer.max_lifetime {
            let (least, most) = (Span::seconds(1), Span::seconds(366 * 86_400));
            self.within(&format!("{key}.max_lifetime"), longest, least, most);
        }
        let kid_rule = issuer.kid_rule.unwrap_or(match issuer.shape {
            TokenShape::Native | TokenShape::DashIf => KidRule::Subset,
            TokenShape::Axinom => KidRule::Strict,
        });
        let (shape, shared_audience) = (issuer.shape, issuer.shared_audience);
        let max_lifetime = issuer.max_lifetime.map(|longest| longest.0);
        let (keys, algorithms) = self.issuer_keys(key, issuer)?;
        Some(IssuerSettings {
            name: name?,
            shape,
            issuer: claim,
            audience,
            shared_audience,
            key_id,
            algorithms,
            keys,
            leeway: leeway.0,
            max_lifetime,
            kid_rule,
        })
    }

    fn issuer_keys(
        &mut self,
        key: &str,
        mut issuer: IssuerDocument,
    ) -> Option<(IssuerKeys, Vec<TokenAlgorithm>)> {
        let one = self.secret(
            key,
            "key",
            issuer.key_file.take(),
            issuer.key_credential.take(),
        );
        let sources = [
            one.is_some(),
            issuer.jwks_file.is_some(),
            issuer.jwks_url.is_some(),
            issuer.discovery,
        ];
        if sources.iter().filter(|set| **set).count() > 1 {
            self.fault(
                key,
                "has its keys from more than one place",
                "leave one of key_file, jwks_file, jwks_url and discovery",
            );
            return None;
        }
        if sources.contains(&true) && one.is_none() {
            return self.key_set(key, issuer);
        }
        if !issuer.algorithms.is_empty() {
            self.fault(
                &format!("{key}.algorithms"),
                "is for the keys of a set, and a single key has one",
                "write algorithm = ...",
            );
        }
        let algorithm = self.required(key, "algorithm", issuer.algorithm);
        let one = self.required(key, "key_file", one);
        Some((IssuerKeys::One(one?), vec![algorithm?]))
    }

    fn key_set(
        &mut self,
        key: &str,
        set: IssuerDocument,
    ) -> Option<(IssuerKeys, Vec<TokenAlgorithm>)> {
        if set.shape == TokenShape::Axinom {
            self.fault(
                &format!("{key}.shape"),
                "an entitlement message is signed with one shared key",
                "set key_file or key_credential",
            );
        }
        for (name, written) in [
            ("key_id", set.key_id.is_some()),
            ("algorithm", set.algorithm.is_some()),
        ] {
            if written && set.shape != TokenShape::Axinom {
                self.fault(
                    &format!("{key}.{name}"),
                    "is for a single key, and the keys of a set have their own",
                    "leave it out, and write algorithms = [...]",
                );
            }
        }
        let published = set.jwks_file.is_none();
        let ca_file = self.absolute(&format!("{key}.ca_file"), set.ca_file);
        let file = (set.jwks_file).map(|path| self.absolute(&format!("{key}.jwks_file"), path));
        if set.algorithms.is_empty() {
            self.fault(
                &format!("{key}.algorithms"),
                "is required",
                "name the algorithms of its keys, such as [\"ES256\"]",
            );
        } else if published && set.algorithms.contains(&TokenAlgorithm::Hs256) {
            self.fault(
                &format!("{key}.algorithms"),
                "HS256 is for secrets, and a set that is published holds none",
                "leave HS256 out",
            );
        }
        let keys = match (file, set.jwks_url) {
            (Some(file), _) => IssuerKeys::Set(SecretSource::file(file)),
            (None, Some(url)) => {
                let (tls, authority, path) = self.remote(&format!("{key}.jwks_url"), &url)?;
                IssuerKeys::Fetched(KeyPlace {
                    tls,
                    authority,
                    path,
                    discovery: false,
                    ca_file,
                    timeout: self.positive(&format!("{key}.timeout"), set.timeout),
                })
            }
            (None, None) => {
                let claim = self.required(key, "issuer", set.issuer)?;
                let url = format!("{}{DISCOVERY}", claim.trim_end_matches('/'));
                let (tls, authority, path) = self.remote(&format!("{key}.issuer"), &url)?;
                IssuerKeys::Fetched(KeyPlace {
                    tls,
                    authority,
                    path,
                    discovery: true,
                    ca_file,
                    timeout: self.positive(&format!("{key}.timeout"), set.timeout),
                })
            }
        };
        Some((keys, set.algorithms))
    }
}
