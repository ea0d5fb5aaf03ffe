//! `castellum inspect`: what files contain, and whether they can be packaged, alone and as one ladder.

use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystore_types::Scheme;
use origin_media::codec::CodecConfig;
use origin_media::identity::{SourceIdentity, probe_ranges};
use origin_media::index::{self, Index, MoovFinder};
use origin_media::presentation::{Pack, Presentation, SourceRef, WRITER};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum inspect film-1080.mp4 film-480.mp4")]
pub(crate) struct Args {
    /// Files, or one folder; several are judged as one ladder
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The segment duration that the ladder is judged by
    #[arg(long, value_name = "SPAN", default_value = "4s")]
    segment_duration: conf::Span,
}

#[derive(Serialize)]
struct Answer {
    /// Whether all of it can be packaged as one asset.
    fit: bool,
    files: Vec<FileFacts>,
    ladder: Ladder,
}

#[derive(Serialize)]
struct FileFacts {
    file: PathBuf,
    bytes: u64,
    /// Why it cannot be packaged, with box path and offset.
    refused: Option<String>,
    identity: Option<String>,
    duration_seconds: f64,
    tracks: Vec<TrackFacts>,
    ignored: Vec<IgnoredFacts>,
}

#[derive(Serialize)]
struct TrackFacts {
    track_id: u32,
    codec: String,
    language: Option<String>,
    timescale: u32,
    samples: u32,
    key_frames: u32,
    duration_seconds: f64,
    bits_per_second: u64,
    width: Option<u16>,
    height: Option<u16>,
    channels: Option<u16>,
    sample_rate: Option<u32>,
    /// Ticks that the edit list leaves out at the start.
    skipped_ticks: i64,
    /// Ticks by which the edit list delays the start.
    delayed_ticks: i64,
}

#[derive(Serialize)]
struct IgnoredFacts {
    track_id: u32,
    what: String,
    reason: String,
}

#[derive(Serialize)]
struct Ladder {
    /// Why the files make no asset together.
    refused: Option<String>,
    renditions: Vec<RenditionFacts>,
}

#[derive(Serialize)]
struct RenditionFacts {
    name: String,
    /// Which tracks it shares a key with.
    label: String,
    segments: u32,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let mut files = Vec::new();
    let mut sources = Vec::new();
    for path in paths(&args.paths)? {
        let (facts, source) = look_into(&path)?;
        files.push(facts);
        sources.extend(source);
    }
    let refused = files.iter().filter(|file| file.refused.is_some()).count();
    let ladder = ladder(sources, args.segment_duration);
    let fit = refused == 0 && ladder.refused.is_none();
    output.say(&Answer { fit, files, ladder }, text)?;
    if fit {
        Ok(())
    } else {
        Err(Failure::failed("this cannot be packaged as it is"))
    }
}

/// The files named, and those in a folder that is named.
fn paths(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut paths = Vec::new();
    for path in named {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let entries = path.read_dir().map_err(|error| unreadable(path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, error))?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.path().is_file() {
                paths.push(entry.path());
            }
        }
    }
    paths.sort();
    match paths.len() {
        0 => Err(Failure::failed("there is no file in that folder")),
        _ => Ok(paths),
    }
}

fn look_into(path: &Path) -> Result<(FileFacts, Option<SourceRef>), Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let bytes = file
        .metadata()
        .map_err(|error| unreadable(path, error))?
        .len();
    let read = |range: Range<u64>| {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(|error| unreadable(path, error))?;
        Ok(bytes)
    };
    let mut facts = FileFacts {
        file: path.to_owned(),
        bytes,
        refused: None,
        identity: None,
        duration_seconds: 0.0,
        tracks: Vec::new(),
        ignored: Vec::new(),
    };
    let index = match index_of(bytes, read)? {
        Ok(index) => index,
        Err(refused) => {
            facts.refused = Some(refused);
            return Ok((facts, None));
        }
    };
    let probes: Vec<(Range<u64>, Vec<u8>)> = probe_ranges(bytes)
        .into_iter()
        .map(|range| Ok((range.clone(), read(range)?)))
        .collect::<Result<_, Failure>>()?;
    let probes: Vec<_> = probes
        .iter()
        .map(|(range, bytes)| (range.clone(), &bytes[..]))
        .collect();
    let identity = SourceIdentity::compute(&index, &probes);
    facts.identity = Some(identity.to_string());
    facts.duration_seconds = index.duration().as_seconds_f64();
    facts.tracks = index.tracks().iter().map(TrackFacts::from).collect();
    facts.ignored = index
        .ignored()
        .iter()
        .map(|track| IgnoredFacts {
            track_id: track.track_id,
            what: track.what.clone(),
            reason: track.reason.clone(),
        })
        .collect();
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let source = SourceRef {
        name,
        identity,
        generation_number: 0,
        index: Arc::new(index),
    };
    Ok((facts, Some(source)))
}

/// Builds the index; what is wrong with the file is the inner error.
fn index_of(
    len: u64,
    read: impl Fn(Range<u64>) -> Result<Vec<u8>, Failure>,
) -> Result<Result<Index, String>, Failure> {
    let mut finder = MoovFinder::new(len);
    while let Some(range) = finder.wants() {
        if let Err(error) = finder.feed(&read(range)?) {
            return Ok(Err(error.to_string()));
        }
    }
    let Some(moov) = finder.found() else {
        return Ok(Err("there is no moov box".to_owned()));
    };
    let start = moov.start;
    Ok(index::build(&read(moov)?, start, len).map_err(|error| error.to_string()))
}

impl From<&index::Track> for TrackFacts {
    fn from(track: &index::Track) -> Self {
        let (picture, sound) = match track.codec() {
            CodecConfig::Avc(avc) => (Some(avc), None),
            CodecConfig::Aac(aac) => (None, Some(aac)),
        };
        let timescale = track.timescale().get();
        let ticks = track.total_duration();
        let bits = u128::from(track.bytes(0..track.sample_count())) * 8 * u128::from(timescale);
        Self {
            track_id: track.track_id(),
            codec: track.codec().rfc6381(),
            language: track.language().map(str::to_owned),
            timescale,
            samples: track.sample_count(),
            key_frames: track.sync_count(),
            duration_seconds: ticks as f64 / f64::from(timescale),
            bits_per_second: u64::try_from(bits / u128::from(ticks.max(1))).unwrap_or(u64::MAX),
            width: picture.map(|avc| avc.width()),
            height: picture.map(|avc| avc.height()),
            channels: sound.map(|aac| aac.channels()),
            sample_rate: sound.map(|aac| aac.sample_rate()),
            skipped_ticks: track.edit().skip,
            delayed_ticks: track.edit().delay,
        }
    }
}

/// Assembles the files as the origin would. The scheme moves no boundary, so one answers for all.
fn ladder(sources: Vec<SourceRef>, segment_duration: conf::Span) -> Ladder {
    let segment_duration_ms = u32::try_from(segment_duration.0.as_millis()).unwrap_or(u32::MAX);
    let pack = Pack {
        name: "cbcs".to_owned(),
        scheme: Some(Scheme::Cbcs),
        segment_duration_ms,
        writer: WRITER,
    };
    if sources.is_empty() {
        return Ladder {
            refused: None,
            renditions: Vec::new(),
        };
    }
    match Presentation::assemble(sources, &pack) {
        Err(error) => Ladder {
            refused: Some(error.to_string()),
            renditions: Vec::new(),
        },
        Ok(presentation) => {
            let renditions = presentation.tracks().iter().map(|track| RenditionFacts {
                name: track.name().to_owned(),
                label: track.label().to_string(),
                segments: track.timeline().segment_count(),
            });
            Ladder {
                refused: None,
                renditions: renditions.collect(),
            }
        }
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for file in &answer.files {
        let _ = writeln!(
            text,
            "{} ({} bytes, {:.3} s)",
            file.file.display(),
            file.bytes,
            file.duration_seconds
        );
        if let Some(refused) = &file.refused {
            let _ = writeln!(text, "  REFUSED {refused}");
        }
        for track in &file.tracks {
            let _ = writeln!(text, "  {}", track_text(track));
        }
        for track in &file.ignored {
            let _ = writeln!(
                text,
                "  track {} ignored: {}: {}",
                track.track_id, track.what, track.reason
            );
        }
    }
    match &answer.ladder.refused {
        Some(refused) => {
            let _ = writeln!(text, "LADDER REFUSED {refused}");
        }
        None => {
            for rendition in &answer.ladder.renditions {
                let RenditionFacts {
                    name,
                    label,
                    segments,
                } = rendition;
                let _ = writeln!(
                    text,
                    "rendition {name}: {segments} segments, key of {label}"
                );
            }
        }
    }
    text
}

fn track_text(track: &TrackFacts) -> String {
    let mut text = format!("track {}: {}", track.track_id, track.codec);
    if let (Some(width), Some(height)) = (track.width, track.height) {
        let _ = write!(text, ", {width}x{height}, {} key frames", track.key_frames);
    }
    if let (Some(channels), Some(rate)) = (track.channels, track.sample_rate) {
        let _ = write!(text, ", {channels} channels at {rate} Hz");
    }
    if let Some(language) = &track.language {
        let _ = write!(text, ", {language}");
    }
    let _ = write!(
        text,
        ", {} samples, {:.3} s, {} kbit/s",
        track.samples,
        track.duration_seconds,
        track.bits_per_second / 1000
    );
    if track.skipped_ticks != 0 || track.delayed_ticks != 0 {
        let _ = write!(
            text,
            ", edit list skips {} and delays {} of {} ticks/s",
            track.skipped_ticks, track.delayed_ticks, track.timescale
        );
    }
    text
}
