//! Who exchanges keys: known by a client certificate, byte for byte, or by a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::{ExchangeCallerSettings, ExchangeRecipient, ExchangeRight};
use cpix::delivery::{Certificate, KeyCipher, RecipientKey, RsaRecipient};
use http::{HeaderMap, header};
use keystore_types::AssetId;
use origin_front::ClientCertificate;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;
use x509_cert::der::{DecodePem as _, Encode as _};
use zeroize::Zeroizing;

use super::Refusal;
use crate::Error;

/// The shortest secret, in bytes: one that nobody guesses by asking.
const MIN_SECRET: usize = 16;

/// Everybody who may exchange keys.
pub(super) struct Partners(Vec<Partner>);

/// Somebody who may.
pub(super) struct Partner {
    /// The name in logs and audit records.
    pub(super) name: String,
    pub(super) may: Vec<ExchangeRight>,
    assets: Assets,
    certificates: Vec<TlsCertificate>,
    /// SHA-256 of its secret: secrets of any length are compared in one time.
    secret: Option<[u8; 32]>,
    /// To whom keys are encrypted.
    pub(super) recipients: Vec<Certificate>,
    pub(super) key_cipher: KeyCipher,
    pub(super) danger_clear: bool,
    pub(super) danger_unenrolled: bool,
}

enum Assets {
    All,
    Named(BTreeSet<AssetId>),
}

/// A certificate that a TLS client may show.
struct TlsCertificate {
    der: Vec<u8>,
    /// Distinguished name in DER.
    issuer: Vec<u8>,
    /// In seconds of Unix time, inclusive.
    validity: std::ops::RangeInclusive<u64>,
}

impl Partners {
    pub(super) fn load(callers: &BTreeMap<String, ExchangeCallerSettings>) -> Result<Self, Error> {
        let partners = callers.iter();
        let partners = partners
            .map(|(name, settings)| Partner::load(name, settings))
            .collect::<Result<Vec<_>, _>>()?;
        let mut seen: BTreeMap<&[u8], &str> = BTreeMap::new();
        for partner in &partners {
            let certificates = (partner.certificates.iter()).map(|it| it.der.as_slice());
            for proof in certificates.chain(partner.secret.as_ref().map(<[u8; 32]>::as_slice)) {
                if let Some(other) = seen.insert(proof, &partner.name)
                    && other != partner.name
                {
                    return Err(Error::malformed(format!(
                        "{other} and {} in license.exchange.callers have one certificate or secret, and cannot be \
                         told apart: give each its own",
                        partner.name
                    )));
                }
            }
        }
        Ok(Self(partners))
    }

    pub(super) fn client_issuers(&self) -> Vec<Vec<u8>> {
        let certificates = self.0.iter().flat_map(|partner| &partner.certificates);
        let issuers: BTreeSet<&Vec<u8>> = certificates.map(|it| &it.issuer).collect();
        issuers.into_iter().cloned().collect()
    }

    /// Who this is; `now` in seconds of Unix time. Whoever shows two proofs must be one and the same by both.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        now: u64,
    ) -> Result<&Partner, Refusal> {
        let by_certificate = certificate.and_then(|shown| {
            let shows = |it: &TlsCertificate| it.der == shown.der() && it.validity.contains(&now);
            (self.0.iter()).find(|partner| partner.certificates.iter().any(shows))
        });
        let mut fields = headers.get_all(header::AUTHORIZATION).into_iter();
        let by_secret = match (fields.next(), fields.next()) {
            (None, _) => None,
            (Some(field), None) => {
                let text = field.to_str().map_err(|_| Refusal::Unknown)?;
                Some(self.by_secret(text).ok_or(Refusal::Unknown)?)
            }
            (Some(_), Some(_)) => return Err(Refusal::Unknown),
        };
        match (by_certificate, by_secret) {
            (Some(one), Some(other)) if one.name != other.name => Err(Refusal::Unknown),
            (one, other) => one.or(other).ok_or(Refusal::Unknown),
        }
    }

    /// By `Basic` (RFC 7617) or `Bearer` (RFC 6750). The secrets of all partners are compared, in constant time.
    fn by_secret(&self, authorization: &str) -> Option<&Partner> {
        let (scheme, value) = authorization.trim_matches(' ').split_once(' ')?;
        let value = value.trim_matches(' ');
        let (name, secret) = if scheme.eq_ignore_ascii_case("Basic") {
            let pair = Zeroizing::new(STANDARD.decode(value).ok()?);
            let colon = pair.iter().position(|byte| *byte == b':')?;
            let name = str::from_utf8(&pair[..colon]).ok()?.to_owned();
            (Some(name), digest_of(&pair[colon + 1..]))
        } else if scheme.eq_ignore_ascii_case("Bearer") {
            (None, digest_of(value.as_bytes()))
        } else {
            return None;
        };
        let mut found = None;
        for partner in &self.0 {
            let own = partner.secret.unwrap_or_default();
            let fits = own.ct_eq(&secret) & u8::from(partner.secret.is_some()).into();
            if bool::from(fits) && name.as_ref().is_none_or(|name| *name == partner.name) {
                found = Some(partner);
            }
        }
        found
    }
}

impl Partner {
    fn load(name: &str, settings: &ExchangeCallerSettings) -> Result<Self, Error> {
        let key = |key: &str| format!("license.exchange.callers.{name}.{key}");
        let assets = if settings.assets.iter().any(|asset| asset == "*") {
            Assets::All
        } else {
            let names = settings.assets.iter();
            Assets::Named(names.filter_map(|name| name.parse().ok()).collect())
        };
        let secret = match &settings.secret {
            Some(source) => {
                let secret = source.read_line().map_err(|error| {
                    Error::unavailable(
                        format!("read the secret {source} ({})", key("secret_file")),
                        error,
                    )
                })?;
                if secret.len() < MIN_SECRET {
                    return Err(Error::malformed(format!(
                        "the secret {source} ({}) has less than {MIN_SECRET} bytes: draw one with \
                         `openssl rand -base64 24`",
                        key("secret_file")
                    )));
                }
                Some(digest_of(&secret))
            }
            None => None,
        };
        let certificates = settings.certificates.iter();
        let recipients = settings.recipients.iter();
        Ok(Self {
            name: name.to_owned(),
            may: settings.may.clone(),
            assets,
            certificates: certificates
                .map(|path| TlsCertificate::load(path, &key("certificate_files")))
                .collect::<Result<_, _>>()?,
            secret,
            recipients: recipients
                .map(|path| recipient(path, &key("recipient_files")))
                .collect::<Result<_, _>>()?,
            key_cipher: match settings.key_cipher {
                conf::KeyCipher::AesCbc => KeyCipher::AesCbc,
                conf::KeyCipher::AesKw => KeyCipher::AesKw,
            },
            danger_clear: settings.danger_clear,
            danger_unenrolled: settings.danger_unenrolled,
        })
    }

    /// The asset of a content id, if it is granted.
    pub(super) fn asset(&self, content_id: &str) -> Result<AssetId, Refusal> {
        let asset: AssetId = content_id.parse().map_err(|error| {
            Refusal::Unfit(format!("the content id names no asset here: {error}"))
        })?;
        self.check_asset(&asset)?;
        Ok(asset)
    }

    /// Refuses an asset that is not granted.
    pub(super) fn check_asset(&self, asset: &AssetId) -> Result<(), Refusal> {
        let granted = match &self.assets {
            Assets::All => true,
            Assets::Named(names) => names.contains(asset),
        };
        match granted {
            true => Ok(()),
            false => Err(Refusal::NotGranted(format!(
                "{} is not granted the asset {asset}",
                self.name
            ))),
        }
    }
}

impl TlsCertificate {
    fn load(path: &Path, key: &str) -> Result<Self, Error> {
        let pem = read(path, key)?;
        let malformed = |what: &str| {
            Error::malformed(format!(
                "{} ({key}) is no certificate in PEM{what}",
                path.display()
            ))
        };
        let certificate =
            x509_cert::Certificate::from_pem(&pem).map_err(|_| malformed(", or more than one"))?;
        let tbs = certificate.tbs_certificate();
        let validity = tbs.validity();
        Ok(Self {
            der: certificate.to_der().map_err(|_| malformed(""))?,
            issuer: tbs.issuer().to_der().map_err(|_| malformed(""))?,
            validity: validity.not_before.to_unix_duration().as_secs()
                ..=validity.not_after.to_unix_duration().as_secs(),
        })
    }
}

/// This server's own certificate and key, to which partners encrypt what they bring.
pub(super) fn own_recipient(settings: &ExchangeRecipient) -> Result<Box<dyn RecipientKey>, Error> {
    let certificate = recipient(
        &settings.certificate,
        "license.exchange.recipient_certificate",
    )?;
    let source = &settings.key;
    let attempted = format!("read the private key {source} (license.exchange.recipient_key_file)");
    let pem = (source.read()).map_err(|error| Error::unavailable(attempted.clone(), error))?;
    let pem =
        str::from_utf8(&pem).map_err(|_| Error::malformed(format!("{attempted}: it is no PEM")))?;
    let key = RsaRecipient::from_pem(certificate, pem)
        .map_err(|error| Error::malformed(format!("{attempted}: {error}")))?;
    Ok(Box::new(key))
}

fn recipient(path: &Path, key: &str) -> Result<Certificate, Error> {
    Certificate::from_pem(&read(path, key)?)
        .map_err(|error| Error::malformed(format!("{} ({key}): {error}", path.display())))
}

fn read(path: &Path, key: &str) -> Result<String, Error> {
    fs::read_to_string(path)
        .map_err(|error| Error::unavailable(format!("read {} ({key})", path.display()), error))
}

fn digest_of(secret: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, secret).as_ref());
    bytes
}
