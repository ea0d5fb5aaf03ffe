//! A keystore that keeps the rules of the real one.

use super::*;

#[derive(Debug)]
pub(super) struct Double {
    pub(super) seal: watch::Sender<SealState>,
    pub(super) audit: Mutex<Vec<ExportRequest>>,
    /// Whether it can record nothing.
    pub(super) audit_full: AtomicBool,
    /// Keys that are no more.
    pub(super) destroyed: Mutex<Vec<KeyId>>,
}

/// asset, key, tracks, scheme
const RECORDS: [(&str, KeyId, Label, Scheme); 5] = [
    ("film", AUDIO, Label::Audio, Scheme::Cbcs),
    ("film", VIDEO, Label::Sd, Scheme::Cbcs),
    ("film", VIDEO_CENC, Label::Sd, Scheme::Cenc),
    ("film", VIDEO_NEXT, Label::Sd, Scheme::Cbcs),
    ("series", OTHER, Label::Sd, Scheme::Cbcs),
];

impl Double {
    fn check(&self, asset: &AssetId) -> Result<(), keystore_client::Error> {
        match *self.seal.borrow() {
            SealState::Unsealed if asset.as_str() == "private" => Err(
                keystore_client::Error::Denied("no grant for this asset".to_owned()),
            ),
            SealState::Unsealed => Ok(()),
            SealState::Sealed | SealState::Uninitialised => Err(keystore_client::Error::Sealed),
            SealState::Unreachable => {
                Err(keystore_client::Error::Unavailable("no answer".to_owned()))
            }
        }
    }
}

impl Keystore for Double {
    fn describe(&self, request: DescribeRequest) -> Answer<'_, Vec<KeyDescription>> {
        Box::pin(async move {
            self.check(&request.asset)?;
            let described = RECORDS.into_iter().filter(|(asset, key_id, ..)| {
                *asset == request.asset.as_str() && request.key_ids.contains(key_id)
            });
            let described = described.map(|(_, key_id, label, scheme)| KeyDescription {
                key_id,
                label,
                scheme,
            });
            Ok(described.collect())
        })
    }

    fn lease(&self, _: LeaseRequest) -> Answer<'_, Lease> {
        Box::pin(async { Err(keystore_client::Error::Denied("not an origin".to_owned())) })
    }

    fn export(&self, request: ExportRequest) -> Answer<'_, Vec<ExportedKey>> {
        Box::pin(async move {
            self.check(&request.asset)?;
            if self.audit_full.load(Ordering::Relaxed) {
                let full = keystore_client::Error::AuditUnavailable("no space".to_owned());
                return Err(full);
            }
            self.audit.lock().unwrap().push(request.clone());
            let destroyed = self.destroyed.lock().unwrap();
            Ok(RECORDS
                .into_iter()
                .filter(|(asset, key_id, ..)| {
                    *asset == request.asset.as_str()
                        && request.key_ids.contains(key_id)
                        && !destroyed.contains(key_id)
                })
                .map(|(_, key_id, label, scheme)| ExportedKey {
                    key_id,
                    label,
                    scheme,
                    iv: ConstantIv::new([0; 16]),
                    key: ContentKey::take(&mut key_of(key_id)),
                })
                .collect())
        })
    }

    fn seal_state(&self) -> watch::Receiver<SealState> {
        self.seal.subscribe()
    }
}
