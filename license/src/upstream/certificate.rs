//! The certificates that players fetch before they ask for a licence. They are public: whoever asks gets them, and neither
//! a session nor a token is used up by it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conf::CertificateSettings;
use keystore_types::AssetId;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

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
    Fetched(Arc<Cache>),
}

#[derive(Default)]
struct Cache {
    known: Mutex<Known>,
    /// Held by whoever fetches it. Others wait where there is none yet, and no longer than that.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Known {
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
                None => Widevine::Fetched(Arc::default()),
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

    /// Widevine's: from the file, from the cache, or fetched. One that is old is better than none, and given at once while a
    /// task of its own fetches the next. `fetch` is polled in these cases only, by one at a time.
    pub(super) async fn widevine(
        &self,
        fetch: impl Future<Output = Result<Certificate, Refusal>> + Send + 'static,
    ) -> Result<Arc<Certificate>, Refusal> {
        let cache = match &self.widevine {
            Widevine::File(certificate) => return Ok(Arc::clone(certificate)),
            Widevine::Fetched(cache) => cache,
        };
        let (certificate, due) = {
            let known = cache.known();
            (known.certificate.clone(), known.is_due())
        };
        match certificate {
            Some(certificate) => {
                if due && let Ok(turn) = Arc::clone(&cache.fetching).try_lock_owned() {
                    let cache = Arc::clone(cache);
                    tokio::spawn(async move { cache.fill(turn, fetch).await });
                }
                Ok(certificate)
            }
            None => {
                let turn = Arc::clone(&cache.fetching).lock_owned().await;
                cache.fill(turn, fetch).await;
                cache.known().told()
            }
        }
    }
}

impl Cache {
    /// Fetches it, unless whoever had the turn before has just done so.
    async fn fill(
        &self,
        _turn: OwnedMutexGuard<()>,
        fetch: impl Future<Output = Result<Certificate, Refusal>>,
    ) {
        if !self.known().is_due() {
            return;
        }
        let fetched = fetch.await;
        let mut known = self.known();
        let wait = match fetched {
            Ok(certificate) => {
                known.certificate = Some(Arc::new(certificate));
                FRESH
            }
            Err(refusal) => {
                known.refusal = Some(refusal);
                PATIENCE
            }
        };
        known.due = Some(Instant::now() + wait);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| Instant::now() >= due)
    }

    fn told(&self) -> Result<Arc<Certificate>, Refusal> {
        match (&self.certificate, &self.refusal) {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn certificate(text: &str) -> Certificate {
        Certificate {
            bare: text.into(),
            message: text.into(),
        }
    }

    /// Fetches it in so long.
    async fn fetch(
        asked: Arc<AtomicUsize>,
        took: Duration,
        text: &'static str,
    ) -> Result<Certificate, Refusal> {
        asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(took).await;
        match text {
            "" => Err(Refusal::UpstreamUnavailable("gone".to_owned())),
            text => Ok(certificate(text)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_certificate_is_given_while_one_task_fetches_the_next() {
        let certificates = Certificates::open(&CertificateSettings::default()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let given = async |took, text| {
            let fetch = fetch(Arc::clone(&asked), took, text);
            certificates.widevine(fetch).await.unwrap().bare.clone()
        };
        let long = Duration::from_secs(10);
        // Where there is none, all wait for the one.
        let [first, second] = tokio::join!(given(long, "old"), given(long, "other")).into();
        assert_eq!((&*first, &*second), (&b"old"[..], &b"old"[..]));
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        for (text, then) in [("", "old"), ("new", "new")] {
            tokio::time::advance(FRESH).await;
            let (before, begun) = (asked.load(Ordering::SeqCst), Instant::now());
            for _ in 0..20 {
                assert_eq!(given(long, text).await, b"old");
                tokio::task::yield_now().await;
            }
            assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits");
            assert_eq!(asked.load(Ordering::SeqCst), before + 1);
            tokio::time::sleep(long + Duration::from_secs(1)).await;
            assert_eq!(given(long, text).await, then.as_bytes());
        }
    }
}
