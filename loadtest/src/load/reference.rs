//! Protected segments held against the same segments of the clear policy.
//!
//! The clear side is fetched for each comparison, from its MPD on: nothing of it is kept, and no title is touched
//! before a viewer has been served from it, so that a cold catalogue is cold for him.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::client::{Client, Request};
use crate::decrypt::Key;
use crate::manifest::{Track, dash};
use crate::mp4::Header;
use crate::recorder::{Recorder, Route, Took};
use crate::target::{CLEAR_POLICY, Target};
use crate::verify::{self, Segment};

/// Turns that are compared at once: each holds its segments in memory, and takes a core from the viewers.
const AT_ONCE: usize = 4;

/// Where the clear side of every title is, and who asks for it.
pub(super) struct Reference {
    /// The MPD of each asset's clear policy.
    manifests: HashMap<String, Url>,
    client: Client,
    recorder: Arc<Recorder>,
    places: Arc<Semaphore>,
}

/// A protected segment that a viewer has got.
pub(super) struct Sample {
    /// Asset and policy, for people.
    pub(super) about: String,
    pub(super) track: Arc<Track>,
    pub(super) header: Header,
    pub(super) key: Key,
    pub(super) index: usize,
    pub(super) bytes: bytes::Bytes,
}

impl Reference {
    pub(super) fn new(target: &Target, tls: bool, client: Client, recorder: Arc<Recorder>) -> Self {
        let clear = target.assets.iter().filter_map(|asset| {
            let mut streams = asset.streams.iter();
            let stream = streams.find(|stream| stream.policy == CLEAR_POLICY)?;
            Some((asset.id.clone(), target.on_listener(&stream.dash, tls)))
        });
        Self {
            manifests: clear.collect(),
            client,
            recorder,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// A place for one turn; none while all are taken, so that comparing never piles up.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Compares the segments of one turn of this asset, and records what came of it.
    pub(super) async fn compare(&self, asset: &str, samples: Vec<Sample>) {
        let Some(tracks) = self.tracks(asset).await else {
            return; // which has been recorded
        };
        for sample in samples {
            let Sample {
                about,
                track,
                index,
                ..
            } = &sample;
            let name = format!("{about} {} segment {}", track.name, index + 1);
            let clear = tracks.iter().find(|clear| clear.name == track.name);
            let Some((clear, segment)) =
                clear.and_then(|clear| Some((clear, clear.segments.get(*index)?)))
            else {
                self.recorder
                    .differing(format!("{name}: the clear policy has no such segment"));
                continue;
            };
            let (Some(init), Some(bytes)) = (
                self.fetch(&clear.init).await,
                self.fetch(&segment.url).await,
            ) else {
                continue;
            };
            // Decrypting megabytes at once would keep the viewers of this thread waiting.
            let compared =
                tokio::task::spawn_blocking(move || compare(&sample, &init, &bytes)).await;
            match compared {
                Ok(Ok(samples)) => self.recorder.equal(samples),
                Ok(Err(difference)) => self.recorder.differing(format!("{name}: {difference}")),
                Err(_) => self
                    .recorder
                    .fault(format!("{name}: the comparison broke down")),
            }
        }
    }

    async fn tracks(&self, asset: &str) -> Option<Vec<Track>> {
        let url = self.manifests.get(asset)?;
        let body = self.fetch(url).await?;
        match dash::read(url, &String::from_utf8_lossy(&body)) {
            Ok(menu) => Some(menu.main.into_iter().chain(menu.audio).collect()),
            Err(fault) => {
                self.recorder
                    .fault(format!("{asset} {CLEAR_POLICY}: {fault}"));
                None
            }
        }
    }

    async fn fetch(&self, url: &Url) -> Option<bytes::Bytes> {
        let request = Request {
            url: url.clone(),
            json: None,
            authorization: None,
            keep: true,
        };
        match self.client.fetch(&request).await {
            Ok(reply) => {
                self.recorder
                    .answered(Route::Aside, Took::SinceDue(reply.elapsed), reply.len);
                Some(reply.body)
            }
            Err(error) => {
                self.recorder
                    .failed(Route::Aside, format!("{}: {error}", url.path()));
                None
            }
        }
    }
}

fn compare(sample: &Sample, init: &[u8], bytes: &[u8]) -> Result<usize, verify::Difference> {
    let header = Header::read(init).map_err(verify::Difference::Clear)?;
    let protected = Segment {
        header: &sample.header,
        bytes: &sample.bytes,
    };
    let clear = Segment {
        header: &header,
        bytes,
    };
    verify::compare(protected, &sample.key, clear)
}
