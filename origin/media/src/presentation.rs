//! A title as it is presented: which tracks of which sources, in which switching sets, under which keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use keystore_types::{AssetId, Generation, KeyContext, Label, SUBSAMPLE_RULE, Scheme};

use crate::codec::{CodecConfig, Media};
use crate::error::PackageError;
use crate::identity::SourceIdentity;
use crate::index::{self, Index};
use crate::protect::TrackKey;
use crate::time::{MediaTime, Rounding, Timescale};
use crate::timeline::{self, Timeline};

/// What decides bytes: scheme, segment duration, and the writer of boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The name in media URLs.
    pub name: String,
    /// The protection scheme; `None` is clear.
    pub scheme: Option<Scheme>,
    /// A segment begins at the first key frame at or after each multiple of this; never 0.
    pub segment_duration_ms: u32,
    /// Which version of the box writers. Raised by the operator, so that an upgrade changes no byte.
    pub writer: u16,
}

/// The writer of boxes that this binary has.
pub const WRITER: u16 = 1;

/// A mezzanine file of a title.
#[derive(Clone, Debug)]
pub struct SourceRef {
    /// The name without its extension: sources are taken in the order of their names.
    pub name: String,
    /// What it contains, as a digest.
    pub identity: SourceIdentity,
    /// Raised when the content changed where the identity cannot tell.
    pub generation_number: u32,
    /// Its tracks and samples.
    pub index: Arc<Index>,
}

/// A title under one pack: tracks in switching sets, each with its timeline.
#[derive(Clone, Debug)]
pub struct Presentation {
    pack: Pack,
    sources: Vec<SourceRef>,
    tracks: Vec<Track>,
    sets: Vec<SwitchingSet>,
}

/// Tracks between which a player may switch at any segment: alternatives of one content (ISO/IEC 23000-19 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchingSet {
    /// Pictures or sound.
    pub media: Media,
    /// BCP 47, where known.
    pub language: Option<String>,
    /// Positions in [`Presentation::tracks`], by rising bit rate.
    pub tracks: Vec<usize>,
}

/// A track as it is served.
#[derive(Clone, Debug)]
pub struct Track {
    name: String,
    source: usize,
    index: Arc<Index>,
    number: usize,
    label: Label,
    rank: u16,
    generation: Generation,
    timeline: Timeline,
}

/// The most tracks that share a key: the rank has 16 bits in an IV. A title has dozens.
const MAX_TRACKS: usize = 1 << 10;

impl Presentation {
    /// Assembles a title from `sources`, which may come in any order.
    ///
    /// # Errors
    /// `Unsupported` when the rungs of the video ladder have no key frame in common where a segment must begin
    /// (the message lists the instants), differ in length by more than a segment, or when nothing of a
    /// track is ever shown; `Limit` on too many tracks; `Unsupported` on a writer of another binary.
    pub fn assemble(mut sources: Vec<SourceRef>, pack: &Pack) -> Result<Self, PackageError> {
        if pack.writer != WRITER {
            return Err(PackageError::unsupported(format!(
                "pack {} wants writer {}; this binary has writer {WRITER}",
                pack.name, pack.writer
            )));
        }
        if pack.segment_duration_ms == 0 {
            return Err(PackageError::unsupported(format!(
                "pack {}: a segment duration of 0",
                pack.name
            )));
        }
        sources.sort_by(|a, b| (&a.name, a.identity).cmp(&(&b.name, b.identity)));
        let chosen = Chosen::all(&sources)?;
        let names = names(&chosen);
        let keyed = keyed(&sources, &chosen);
        let sets = switching_sets(&chosen);

        let mut tracks: Vec<Option<Track>> = chosen.iter().map(|_| None).collect();
        for set in &sets {
            let rungs: Vec<timeline::Rung<'_>> = set
                .tracks
                .iter()
                .map(|&at| timeline::Rung {
                    name: &names[at],
                    track: chosen[at].samples,
                })
                .collect();
            let timelines = timeline::segment(&rungs, pack.segment_duration_ms)?;
            for (&at, timeline) in set.tracks.iter().zip(timelines) {
                let Chosen {
                    source,
                    number,
                    label,
                    ..
                } = chosen[at];
                let (rank, generation) = keyed[at];
                tracks[at] = Some(Track {
                    name: names[at].clone(),
                    source,
                    index: Arc::clone(&sources[source].index),
                    number,
                    label,
                    rank,
                    generation,
                    timeline,
                });
            }
        }
        let tracks = tracks.into_iter().flatten().collect();
        Ok(Self {
            pack: pack.clone(),
            sources,
            tracks,
            sets,
        })
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The sources, by name; [`Track::source`] counts in them.
    pub fn sources(&self) -> &[SourceRef] {
        &self.sources
    }

    /// Every track.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    /// The track called `name`.
    pub fn track(&self, name: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.name == name)
    }

    /// The switching sets: video first, then one for each language and kind of audio.
    pub fn switching_sets(&self) -> &[SwitchingSet] {
        &self.sets
    }

    /// The tracks of `set`, by rising bit rate.
    pub fn tracks_of<'a>(
        &'a self,
        set: &'a SwitchingSet,
    ) -> impl Iterator<Item = &'a Track> + Clone {
        set.tracks.iter().map(|&at| &self.tracks[at])
    }

    /// When the first segment of any track begins: nothing is shown before (rule T9).
    pub fn start(&self) -> MediaTime {
        let starts = self.tracks.iter().map(Track::start);
        starts
            .min()
            .unwrap_or(MediaTime::new(0, Timescale::MILLISECONDS))
    }

    /// When the last segment of any track ends.
    pub fn end(&self) -> MediaTime {
        let ends = self.tracks.iter().map(Track::end);
        ends.max()
            .unwrap_or(MediaTime::new(0, Timescale::MILLISECONDS))
    }

    /// The contexts of the keys that the title needs under its pack, one for each label; none when it is clear.
    pub fn key_contexts(&self, tenant: &str, asset: &AssetId) -> Vec<KeyContext> {
        let Some(scheme) = self.pack.scheme else {
            return Vec::new();
        };
        let labels: BTreeMap<Label, Generation> = self
            .tracks
            .iter()
            .map(|track| (track.label, track.generation))
            .collect();
        labels
            .into_iter()
            .map(|(label, generation)| KeyContext {
                tenant: tenant.to_owned(),
                asset: asset.clone(),
                label,
                scheme,
                subsample_rule: SUBSAMPLE_RULE,
                generation,
            })
            .collect()
    }

    /// The scheme and key of `track`, or `None` when the pack is clear.
    ///
    /// # Errors
    /// `Internal` when the pack is protected and `keys` lacks the track's label.
    pub fn protection<'k>(
        &self,
        track: &Track,
        keys: &'k BTreeMap<Label, TrackKey>,
    ) -> Result<Option<(Scheme, &'k TrackKey)>, PackageError> {
        let Some(scheme) = self.pack.scheme else {
            return Ok(None);
        };
        let key = keys.get(&track.label).ok_or_else(|| {
            PackageError::internal(format!("no key was given for label {}", track.label))
        })?;
        Ok(Some((scheme, key)))
    }
}

impl Track {
    /// The name in URLs, such as `v720-3000k` or `a-en-128k`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The position of its source in [`Presentation::sources`].
    pub fn source(&self) -> usize {
        self.source
    }

    /// Its samples.
    pub fn samples(&self) -> &index::Track {
        &self.index.tracks()[self.number]
    }

    /// The index that it is part of.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Its position in the index.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Which tracks share its key.
    pub fn label(&self) -> Label {
        self.label
    }

    /// Its rank among the tracks that share its key: part of every `cenc` IV.
    pub fn rank(&self) -> u16 {
        self.rank
    }

    /// The content that its key belongs to.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Its segments.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Pictures or sound.
    pub fn media(&self) -> Media {
        self.samples().codec().media()
    }

    /// What a tick of its timeline is.
    pub fn timescale(&self) -> Timescale {
        self.samples().timescale()
    }

    /// When its first segment begins.
    pub fn start(&self) -> MediaTime {
        MediaTime::new(self.timeline.start().cast_signed(), self.timescale())
    }

    /// When its last segment ends.
    pub fn end(&self) -> MediaTime {
        MediaTime::new(self.timeline.end().cast_signed(), self.timescale())
    }
}

/// A track of a source on its way into a presentation.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    source: usize,
    number: usize,
    identity: SourceIdentity,
    generation_number: u32,
    samples: &'a index::Track,
    label: Label,
    /// Average, over the time of the track.
    kilobits: u64,
}

impl<'a> Chosen<'a> {
    fn all(sources: &'a [SourceRef]) -> Result<Vec<Self>, PackageError> {
        let chosen: Vec<Self> = sources
            .iter()
            .enumerate()
            .flat_map(|(source, from)| {
                from.index
                    .tracks()
                    .iter()
                    .enumerate()
                    .map(move |(number, samples)| Self {
                        source,
                        number,
                        identity: from.identity,
                        generation_number: from.generation_number,
                        samples,
                        label: label(samples.codec()),
                        kilobits: kilobits(samples),
                    })
            })
            .collect();
        match chosen.len() {
            0 => Err(PackageError::unsupported(
                "no source has a track that can be packaged",
            )),
            1..=MAX_TRACKS => Ok(chosen),
            many => Err(PackageError::limit(format!(
                "{many} tracks; a title has at most {MAX_TRACKS}"
            ))),
        }
    }

    /// The order that names of files have no part in.
    fn order(&self) -> (SourceIdentity, u32, usize) {
        (self.identity, self.generation_number, self.number)
    }
}

fn label(codec: &CodecConfig) -> Label {
    match codec {
        CodecConfig::Avc(avc) => Label::of_video(avc.width().into(), avc.height().into()),
        CodecConfig::Aac(_) => Label::Audio,
    }
}

fn kilobits(track: &index::Track) -> u64 {
    let bits = u128::from(track.bytes(0..track.sample_count())) * 8;
    let ticks = u128::from(track.total_duration()).max(1);
    let rate = (bits * u128::from(track.timescale().get()) + ticks * 500) / (ticks * 1000);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Positions of `chosen` in the order of identities.
fn by_identity(chosen: &[Chosen<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    order.sort_by_key(|&at| (chosen[at].order(), at));
    order
}

/// A name for every track: what it is and its rate; ties are told apart in the order of identities.
fn names(chosen: &[Chosen<'_>]) -> Vec<String> {
    let mut names = vec![String::new(); chosen.len()];
    let mut uses: BTreeMap<String, u32> = BTreeMap::new();
    for at in by_identity(chosen) {
        let Chosen {
            samples, kilobits, ..
        } = chosen[at];
        let stem = match samples.codec() {
            CodecConfig::Avc(avc) => format!("v{}-{kilobits}k", avc.height()),
            CodecConfig::Aac(_) => {
                format!("a-{}-{kilobits}k", language_in_name(samples.language()))
            }
        };
        let count = uses.entry(stem.clone()).or_default();
        *count += 1;
        names[at] = if *count == 1 {
            stem
        } else {
            format!("{stem}-{count}")
        };
    }
    names
}

fn language_in_name(language: Option<&str>) -> String {
    let tag: String = language
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .map(|c| c.to_ascii_lowercase())
        .take(35)
        .collect();
    if tag.is_empty() {
        "und".to_owned()
    } else {
        tag
    }
}

/// Rank and generation of every track: see [`crate::protect::iv`].
fn keyed(sources: &[SourceRef], chosen: &[Chosen<'_>]) -> Vec<(u16, Generation)> {
    let mut of_label: BTreeMap<Label, Vec<usize>> = BTreeMap::new();
    for at in by_identity(chosen) {
        of_label.entry(chosen[at].label).or_default().push(at);
    }
    let none = Generation {
        sources: [0; 32],
        number: 0,
    };
    let mut keyed = vec![(0, none); chosen.len()];
    for members in of_label.values() {
        let generation = crate::identity::generation(members.iter().map(|&at| {
            let source = &sources[chosen[at].source];
            (source.identity, source.generation_number)
        }));
        for (rank, &at) in (0..).zip(members) {
            keyed[at] = (rank, generation);
        }
    }
    keyed
}

/// All video is one set; audio is one set for each language, layout and rate of sampling.
fn switching_sets(chosen: &[Chosen<'_>]) -> Vec<SwitchingSet> {
    let class = |track: &index::Track| {
        let (channels, sample_rate) = match track.codec() {
            CodecConfig::Avc(_) => return (Media::Video, None, 0, 0),
            CodecConfig::Aac(aac) => (aac.channels(), aac.sample_rate()),
        };
        (
            Media::Audio,
            track.language().map(str::to_owned),
            channels,
            sample_rate,
        )
    };
    // The sets stand in the order in which the sources bring them; `position` keeps that.
    let mut sets: Vec<(_, SwitchingSet)> = Vec::new();
    for (at, track) in chosen.iter().enumerate() {
        let class = class(track.samples);
        match sets.iter_mut().find(|(of, _)| *of == class) {
            Some((_, set)) => set.tracks.push(at),
            None => {
                let set = SwitchingSet {
                    media: class.0,
                    language: class.1.clone(),
                    tracks: vec![at],
                };
                sets.push((class, set));
            }
        }
    }
    let mut sets: Vec<SwitchingSet> = sets.into_iter().map(|(_, set)| set).collect();
    sets.sort_by_key(|set| set.media);
    for set in &mut sets {
        set.tracks
            .sort_by_key(|&at| (chosen[at].kilobits, chosen[at].order(), at));
    }
    sets
}

/// `time` in ticks of `timescale`, rounded down: an offset that must not pass the first sample.
pub(crate) fn ticks_at_or_before(time: MediaTime, timescale: Timescale) -> u64 {
    time.to_timescale(timescale, Rounding::Down)
        .ticks
        .max(0)
        .unsigned_abs()
}
