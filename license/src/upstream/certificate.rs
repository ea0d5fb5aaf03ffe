//! The certificates that players fetch before they ask for a licence. They are public: whoever asks gets them, and neither
//! a session nor a token is used up by it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use conf::CertificateSettings;
use keystore_types::AssetId;
use tokio::sync::Mutex;

use crate::format::widevine::Certificate;
use crate::{Error, Refusal};

/// How long a fetched certificate is given without asking for it again. One lasts for years.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// How long nobody is asked again after a failure: strangers cause these requests.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest file, in bytes.
const MOST: u64 = 64 << 10;

pub(super) struct Certificates {
    widevine: Widevine,
    fairplay: Option<Bytes>,
    fairplay_assets: BTreeMap<AssetId, Bytes>,
}

enum Widevine {
    File(Arc<Certificate>),
    /// Held by whoever fetches it: others wait for that one.
    Fetched(Mutex<Cache>),
}

#[derive(Default)]
struct Cache {
    certificate: Option<Arc<Certificate>>,
    /// When to ask, next time.
    due: Option<Instant>,
    /// Why there is none.
    refusal: Option<Refusal>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// One that cannot be read or holds no certificate, by its path.
    pub(super) fn open(settings: &CertificateSettings) -> Result<Self, Error> {
        let mut fairplay_assets = BTreeMap::new();
        for (asset, path) in &settings.fairplay_assets {
            let key: AssetId = asset.parse().map_err(|error| {
                Error::malformed(format!(
                    "license.certificates.fairplay: the asset {asset}: {error}"
                ))
            })?;
            fairplay_assets.insert(key, read(path)?.into());
        }
        Ok(Self {
            widevine: match &settings.widevine {
                Some(path) => {
                    let certificate = Certificate::read(&read(path)?);
                    let certificate = certificate.ok_or_else(|| {
                        let place = path.display();
                        Error::malformed(format!("read {place}: it is no service certificate"))
                    })?;
                    Widevine::File(Arc::new(certificate))
                }
                None => Widevine::Fetched(Mutex::default()),
            },
            fairplay: match &settings.fairplay {
                Some(path) => Some(read(path)?.into()),
                None => None,
            },
            fairplay_assets,
        })
    }

    /// FairPlay's for the asset, or the one of all others.
    pub(super) fn fairplay(&self, asset: Option<&AssetId>) -> Option<Bytes> {
        let own = asset.and_then(|asset| self.fairplay_assets.get(asset));
        own.or(self.fairplay.as_ref()).cloned()
    }

    pub(super) fn has_widevine(&self) -> bool {
        matches!(self.widevine, Widevine::File(_))
    }

    /// Widevine's: from the file, from the cache, or fetched. One that is old is better than none. `fetch` is polled in
    /// the last case only.
    pub(super) async fn widevine(
        &self,
        fetch: impl Future<Output = Result<Certificate, Refusal>>,
    ) -> Result<Arc<Certificate>, Refusal> {
        let cache = match &self.widevine {
            Widevine::File(certificate) => return Ok(Arc::clone(certificate)),
            Widevine::Fetched(cache) => cache,
        };
        let mut cache = cache.lock().await;
        if cache.due.is_none_or(|due| Instant::now() >= due) {
            let fetched = fetch.await;
            let wait = match fetched {
                Ok(certificate) => {
                    cache.certificate = Some(Arc::new(certificate));
                    FRESH
                }
                Err(refusal) => {
                    cache.refusal = Some(refusal);
                    PATIENCE
                }
            };
            cache.due = Some(Instant::now() + wait);
        }
        match (&cache.certificate, &cache.refusal) {
            (Some(certificate), _) => Ok(Arc::clone(certificate)),
            (None, Some(refusal)) => Err(refusal.clone()),
            (None, None) => Err(Refusal::UpstreamUnavailable("no certificate".to_owned())),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;

    let attempted = || format!("read the certificate {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::unavailable(attempted(), error))?;
    match u64::try_from(bytes.len()) {
        Ok(1..=MOST) => Ok(bytes),
        _ => Err(Error::malformed(format!(
            "{}: it is empty, or too long for one",
            attempted()
        ))),
    }
}
