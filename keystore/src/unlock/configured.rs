//! The ways of keeping the root that settings describe, and that need nobody at the keyboard.

use std::io;

use conf::{Argon2Settings, KeystoreSettings, Pkcs11Settings, SecretSource, TransitSettings};
use keystore_client::admin::UnlockMethod;
use ring::rand::SystemRandom;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{SealedRoot, key_file, passphrase, pkcs11, transit};
use crate::error::{Error, ErrorKind};
use crate::local::blocking;
use crate::seal::KeyBytes;

/// What is configured.
pub(crate) struct Configured {
    passphrase: Option<SecretSource>,
    key: Option<SecretSource>,
    pkcs11: Option<Pkcs11Settings>,
    transit: Option<TransitSettings>,
    cost: Argon2Settings,
}

impl Configured {
    pub(crate) fn new(settings: &KeystoreSettings) -> Self {
        Self {
            passphrase: settings.passphrase.clone(),
            key: settings.key.clone(),
            pkcs11: settings.pkcs11.clone(),
            transit: settings.transit.clone(),
            cost: settings.argon2,
        }
    }

    /// The methods, the cheapest to ask first.
    pub(crate) fn methods(&self) -> Vec<UnlockMethod> {
        [
            (UnlockMethod::Passphrase, self.passphrase.is_some()),
            (UnlockMethod::Key, self.key.is_some()),
            (UnlockMethod::Pkcs11, self.pkcs11.is_some()),
            (UnlockMethod::Transit, self.transit.is_some()),
        ]
        .into_iter()
        .filter_map(|(method, set)| set.then_some(method))
        .collect()
    }

    /// Wraps `root` by one of them. What answers from outside this process is asked to open again what it wrapped, so
    /// that nothing is kept that cannot be opened.
    ///
    /// # Errors
    /// [`ErrorKind::DoesNotOpen`] where it is not configured, or is no passphrase or key; those of the method.
    pub(crate) async fn seal(
        &self,
        method: UnlockMethod,
        root: &KeyBytes,
    ) -> Result<SealedRoot, Error> {
        match method {
            UnlockMethod::Passphrase => self.seal_under(self.passphrase(method)?, root).await,
            UnlockMethod::Key => {
                let key = read(self.key.as_ref(), method, SecretSource::read)?;
                key_file::seal(root, &key, &SystemRandom::new())
            }
            UnlockMethod::Pkcs11 => {
                let (root, token) = (root.clone(), self.token()?);
                blocking(move || pkcs11::seal(&root, &token, &SystemRandom::new())).await
            }
            UnlockMethod::Transit => {
                transit::seal(root, self.service()?, &SystemRandom::new()).await
            }
            UnlockMethod::Shares => Err(unconfigured(method)),
        }
    }

    /// Wraps `root` under a passphrase that somebody typed.
    ///
    /// # Errors
    /// [`ErrorKind::DoesNotOpen`] where it is too short or too long to be one.
    pub(crate) async fn seal_under(
        &self,
        passphrase: SecretString,
        root: &KeyBytes,
    ) -> Result<SealedRoot, Error> {
        if !passphrase::fits(&passphrase) {
            return Err(Error::new(
                ErrorKind::DoesNotOpen,
                format!(
                    "a passphrase has {} to {} bytes",
                    passphrase::MIN_LEN,
                    passphrase::MAX_LEN
                ),
            ));
        }
        let (root, cost) = (root.clone(), self.cost);
        blocking(move || passphrase::seal(&root, &passphrase, cost, &SystemRandom::new())).await
    }

    /// The root, by what is configured for the way in which it is sealed.
    ///
    /// # Errors
    /// [`ErrorKind::DoesNotOpen`] where that is not configured or does not open it; those of the method.
    pub(crate) async fn open(&self, sealed: SealedRoot) -> Result<KeyBytes, Error> {
        let method = sealed.method;
        match method {
            UnlockMethod::Passphrase => {
                let passphrase = self.passphrase(method)?;
                blocking(move || passphrase::open(&sealed, &passphrase)).await
            }
            UnlockMethod::Key => {
                let key = read(self.key.as_ref(), method, SecretSource::read)?;
                key_file::open(&sealed, &key)
            }
            UnlockMethod::Pkcs11 => {
                let token = self.token()?;
                blocking(move || pkcs11::open(&sealed, &token)).await
            }
            UnlockMethod::Transit => transit::open(&sealed, self.service()?).await,
            UnlockMethod::Shares => Err(unconfigured(method)),
        }
    }

    fn token(&self) -> Result<Pkcs11Settings, Error> {
        (self.pkcs11.clone()).ok_or_else(|| unconfigured(UnlockMethod::Pkcs11))
    }

    fn service(&self) -> Result<&TransitSettings, Error> {
        (self.transit.as_ref()).ok_or_else(|| unconfigured(UnlockMethod::Transit))
    }

    fn passphrase(&self, method: UnlockMethod) -> Result<SecretString, Error> {
        let line = read(self.passphrase.as_ref(), method, SecretSource::read_line)?;
        match str::from_utf8(&line) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(Error::new(
                ErrorKind::DoesNotOpen,
                "the configured passphrase is not text in UTF-8: what is binary is a key_file",
            )),
        }
    }
}

type Secret = Zeroizing<Vec<u8>>;

fn read(
    source: Option<&SecretSource>,
    method: UnlockMethod,
    read: impl FnOnce(&SecretSource) -> io::Result<Secret>,
) -> Result<Secret, Error> {
    let source = source.ok_or_else(|| unconfigured(method))?;
    read(source).map_err(|error| Error::unavailable(format!("cannot read {source}"), error))
}

fn unconfigured(method: UnlockMethod) -> Error {
    Error::new(
        ErrorKind::DoesNotOpen,
        format!(
            "keystore.{} is not configured",
            match method {
                UnlockMethod::Passphrase => "passphrase_file",
                UnlockMethod::Key => "key_file",
                UnlockMethod::Pkcs11 => "pkcs11",
                UnlockMethod::Transit => "transit",
                UnlockMethod::Shares => "shares",
            }
        ),
    )
}
