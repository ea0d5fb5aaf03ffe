use conf::IssuerSettings;

use super::key::VerificationKey;
use super::token::is_key_id;
use crate::Error;

/// Who may say what a viewer is entitled to, and the key that proves it.
///
/// Two records may share `iss`, each with a key of its own: so a key is changed without refusing a token.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in logs and audit records.
    pub name: String,
    /// The `iss` claim.
    pub iss: String,
    /// The `aud` claim: the one audience that its tokens may name.
    pub audience: String,
    /// The `kid` of its key. A token whose header names another is not verified with it.
    pub key_id: Option<String>,
    /// The key, and with it the algorithm.
    pub key: VerificationKey,
}

impl Issuer {
    /// Reads the issuer's key file.
    ///
    /// # Errors
    /// Unavailable where the file cannot be read; Malformed where it holds no fit key, or the key id could
    /// not stand in a token.
    pub fn load(settings: &IssuerSettings) -> Result<Self, Error> {
        let name = &settings.name;
        let attempted = || format!("the key of issuer {name}, {}", settings.key);
        let content = settings
            .key
            .read()
            .map_err(|error| Error::unavailable(attempted(), error))?;
        let key = VerificationKey::read(settings.algorithm.into(), &content)
            .map_err(|error| Error::malformed(format!("{}: {error}", attempted())))?;
        if settings.key_id.as_deref().is_some_and(|id| !is_key_id(id)) {
            return Err(Error::malformed(format!(
                "the key id of issuer {name} could not stand in a token"
            )));
        }
        Ok(Self {
            name: name.clone(),
            iss: settings.issuer.clone(),
            audience: settings.audience.clone(),
            key_id: settings.key_id.clone(),
            key,
        })
    }

    /// Whether a token that names this key may be the issuer's. Where either names none, the signature decides.
    pub(super) fn may_use(&self, key_id: Option<&str>) -> bool {
        match (self.key_id.as_deref(), key_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, _) | (_, None) => true,
        }
    }
}
