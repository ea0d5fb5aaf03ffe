//! A title under a pack, with its keys: what manifests and media are planned from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use keystore_types::Label;
use origin_cipher::Aes128Key;
use origin_media::identity::{MediaIds, Revision};
use origin_media::layout;
use origin_media::presentation::{Pack, Presentation, SourceRef, Track};
use origin_media::protect::TrackKey;

use crate::catalog::Title;
use crate::error::Error;
use crate::keys::HeldKeys;

/// A title under a pack. Immutable: when a file or a key changes, another takes its place.
pub struct Package {
    /// The open files.
    pub title: Arc<Title>,
    /// Tracks and timelines.
    pub presentation: Arc<Presentation>,
    /// What is public about the keys; empty when the pack is clear.
    pub track_keys: BTreeMap<Label, TrackKey>,
    keys: Option<HeldKeys>,
    /// One for each track of the presentation.
    tracks: Vec<PackagedTrack>,
    /// The ids of each track of the presentation.
    pub media_ids: Vec<MediaIds>,
    /// By the name of the policy: a digest is too dear for each request.
    revisions: Mutex<BTreeMap<String, Revision>>,
}

struct PackagedTrack {
    init: Bytes,
    /// The position in the title's sources.
    source: usize,
}

/// Assembles the tracks of a title under a pack; keys come later.
///
/// # Errors
/// [`Error::Unfit`].
pub fn assemble(title: &Title, pack: &Pack) -> Result<Presentation, Error> {
    let sources = title
        .sources
        .iter()
        .map(|source| SourceRef {
            name: source.name.clone(),
            identity: source.identity,
            generation_number: source.number,
            index: Arc::clone(&source.index),
        })
        .collect();
    Presentation::assemble(sources, pack).map_err(|error| Error::Unfit {
        asset: title.asset.id.clone(),
        reason: error.to_string(),
    })
}

impl Package {
    /// Puts a presentation and its keys together. `keys` is `None` exactly when the pack is clear.
    ///
    /// # Errors
    /// [`Error::Internal`] when a key is missing.
    pub fn new(
        title: Arc<Title>,
        presentation: Arc<Presentation>,
        keys: Option<HeldKeys>,
    ) -> Result<Self, Error> {
        let track_keys =
            (keys.as_ref()).map_or_else(BTreeMap::new, |keys| keys.track_keys().clone());
        let mut media_ids = Vec::new();
        let tracks = presentation
            .tracks()
            .iter()
            .map(|track| {
                let init = layout::init_bytes(&presentation, track, &track_keys)
                    .map_err(Error::internal)?;
                let ids = MediaIds::compute(&presentation, track, &track_keys)
                    .map_err(Error::internal)?;
                let wanted = &presentation.sources()[track.source()];
                let source = title
                    .sources
                    .iter()
                    .position(|source| {
                        source.name == wanted.name && source.identity == wanted.identity
                    })
                    .ok_or_else(|| {
                        Error::internal("a presentation has a source that its title lacks")
                    })?;
                media_ids.push(ids);
                Ok(PackagedTrack { init, source })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            title,
            presentation,
            track_keys,
            keys,
            tracks,
            media_ids,
            revisions: Mutex::default(),
        })
    }

    /// The track called `name`, with its position among the tracks.
    pub fn track(&self, name: &str) -> Option<(usize, &Track)> {
        self.presentation
            .tracks()
            .iter()
            .enumerate()
            .find(|(_, track)| track.name() == name)
    }

    /// The init segment of track `number`.
    pub fn init(&self, number: usize) -> &Bytes {
        &self.tracks[number].init
    }

    /// The position of the source of track `number` among the title's.
    pub fn source(&self, number: usize) -> usize {
        self.tracks[number].source
    }

    /// The cipher of a track, if the pack is protected and the lease has not ended.
    pub fn cipher(&self, track: &Track) -> Option<Arc<Aes128Key>> {
        self.keys.as_ref()?.cipher(track.label())
    }

    /// The revision of its manifests under a policy, computed once.
    pub fn revision_under(&self, policy: &str, compute: impl FnOnce() -> Revision) -> Revision {
        let mut revisions = self
            .revisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = revisions.get(policy) {
            return *known;
        }
        let revision = compute();
        revisions.insert(policy.to_owned(), revision);
        revision
    }

    /// Whether a new response may begin under these keys.
    pub fn keys_good(&self) -> bool {
        self.keys.as_ref().is_none_or(HeldKeys::good)
    }

    /// Whether the keystore has sealed since, or the lease is over: what is under way must stop too.
    pub fn keys_ended(&self) -> bool {
        self.keys.as_ref().is_some_and(HeldKeys::ended)
    }
}
