//! From `moov` to an index.
//!
//! Which tracks are fit is decided here, by sample entry and handler; a track that is not is listed with the
//! reason and looked at no further. A fit track whose tables are broken makes the whole source unusable: a
//! film that silently loses a language is worse than one that is refused.

mod edit;
mod tables;

use bytes::Bytes;
use ring::digest::{SHA256, digest};

use super::file::{Draft, Parts, TrackParts};
use super::{IgnoredTrack, Index, MAX_SAMPLES, MAX_TRACKS, language};
use crate::bmff::{
    AudioSampleEntry, BoxRef, Dref, Elng, FourCc, Hdlr, Mdhd, Mvhd, SampleEntry, Stsd, Tkhd,
    VisualSampleEntry, only, required,
};
use crate::codec::{AacConfig, AvcConfig, CodecConfig, CodecError};
use crate::error::{ParseError, ParseErrorKind};
use crate::time::Timescale;

/// Indexes a source from its whole `moov` box, header included, that lies at `moov_offset` of a file of
/// `file_len` bytes.
///
/// Memory stays within some times the size of `moov` plus 8 bytes a sample: every table is checked against
/// its box before anything is allocated for it, and sizes that are not stored one by one against the file.
///
/// # Errors
/// With box path and offset: the tables are `Malformed`; samples lie beyond the end of the file (`Incomplete`);
/// the source asks for something that is not done, such as fragments or an edit list of several cuts, or no
/// track of it is fit, with every track's reason (`Unsupported`); a `Limit` is passed.
pub fn build(moov: &[u8], moov_offset: u64, file_len: u64) -> Result<Index, ParseError> {
    draft(moov, moov_offset, file_len).map(Draft::into_index)
}

/// As [`build`], for an index that goes to a file first.
///
/// # Errors
/// As [`build`].
pub fn draft(moov: &[u8], moov_offset: u64, file_len: u64) -> Result<Draft, ParseError> {
    let moov_digest = digest(&SHA256, moov);
    let moov = BoxRef::whole(moov, FourCc(*b"moov"), moov_offset)?;
    let boxes = moov.children()?;
    if let Some(mvex) = only(&boxes, b"mvex")? {
        return Err(mvex.unsupported("a fragmented file; give the progressive mezzanine"));
    }
    let movie = Mvhd::parse(required(&moov, &boxes, b"mvhd")?)?;
    let traks: Vec<_> = boxes
        .iter()
        .filter(|child| child.name == FourCc(*b"trak"))
        .collect();
    if traks.is_empty() {
        return Err(moov.malformed("no trak box inside"));
    }
    if traks.len() > MAX_TRACKS {
        return Err(ParseError::limit(
            moov.place.clone(),
            format!("{} tracks; at most {MAX_TRACKS} are indexed", traks.len()),
        ));
    }
    let mut source = Source {
        movie_timescale: movie.timescale,
        moov: moov_offset..moov_offset + moov.len(),
        file_len,
        samples_left: MAX_SAMPLES,
    };
    let (mut tracks, mut ignored) = (Vec::<TrackParts>::new(), Vec::<IgnoredTrack>::new());
    for trak in traks {
        let read = source.read_track(trak)?;
        let track_id = match &read {
            Ok(track) => track.track_id,
            Err(ignored) => ignored.track_id,
        };
        if tracks.iter().any(|other| other.track_id == track_id)
            || ignored.iter().any(|other| other.track_id == track_id)
        {
            return Err(trak.malformed(format!("a second track with track_ID {track_id}")));
        }
        match read {
            Ok(track) => tracks.push(track),
            Err(track) => ignored.push(track),
        }
    }
    if tracks.is_empty() {
        return Err(moov.unsupported(no_fit_track(&ignored)));
    }
    let mut parts = Parts {
        file_len,
        moov_digest: [0; 32],
        tracks,
        ignored,
    };
    parts.moov_digest.copy_from_slice(moov_digest.as_ref());
    Ok(Draft::new(parts))
}

/// What is known of the file around the track that is being read.
struct Source {
    movie_timescale: Timescale,
    moov: std::ops::Range<u64>,
    file_len: u64,
    /// How many more samples may be indexed.
    samples_left: u32,
}

impl Source {
    fn read_track(
        &mut self,
        trak: &BoxRef<'_>,
    ) -> Result<Result<TrackParts, IgnoredTrack>, ParseError> {
        let boxes = trak.children()?;
        let header = Tkhd::parse(required(trak, &boxes, b"tkhd")?)?;
        let mdia = required(trak, &boxes, b"mdia")?;
        let media = mdia.children()?;
        let handler = Hdlr::parse(required(mdia, &media, b"hdlr")?)?;
        let minf = required(mdia, &media, b"minf")?;
        let information = minf.children()?;
        let stbl = required(minf, &information, b"stbl")?;
        let tables = stbl.children()?;
        let stsd = Stsd::parse(required(stbl, &tables, b"stsd")?)?;

        let what = format!("{} {}", stsd.entries[0].name, handler_name(handler.handler));
        let ignore = |reason: String| {
            Ok(Err(IgnoredTrack {
                track_id: header.track_id,
                what,
                reason,
            }))
        };
        let codec = match read_codec(&stsd, handler.handler)? {
            Ok(codec) => codec,
            Err(reason) => return ignore(reason),
        };
        if let Some(reason) = elsewhere(minf, &information, &stsd.entries[0])? {
            return ignore(reason);
        }
        let mdhd = Mdhd::parse(required(mdia, &media, b"mdhd")?)?;
        let elng = only(&media, b"elng")?.map(Elng::parse).transpose()?;
        let language = elng
            .and_then(|text| language::tag(&text))
            .or_else(|| mdhd.language.and_then(language::bcp47));

        let Some(columns) = self.read_tables(stbl, &tables, mdhd.timescale, codec.media())? else {
            return ignore("it holds no samples".to_owned());
        };
        let edit = self.read_edit(&boxes, &columns, mdhd.timescale)?;
        Ok(Ok(TrackParts {
            track_id: header.track_id,
            codec,
            timescale: mdhd.timescale,
            language,
            name: handler.name,
            matrix: header.matrix,
            edit,
            columns,
        }))
    }
}

/// The codec of a track, or the reason for which the track is left out.
fn read_codec(stsd: &Stsd<'_>, handler: FourCc) -> Result<Result<CodecConfig, String>, ParseError> {
    let entry = &stsd.entries[0];
    if let Some(reason) = unfit(entry.name, handler) {
        return Ok(Err(reason));
    }
    if stsd.entries.len() > 1 {
        let reason = format!("{} sample entries; one is packaged", stsd.entries.len());
        return Ok(Err(reason));
    }
    let (codec, place) = if entry.name == FourCc(*b"avc1") {
        let visual = VisualSampleEntry::parse(entry)?;
        let avcc = Bytes::copy_from_slice(visual.avcc.body());
        let config = AvcConfig::parse(avcc, visual.colour, visual.pixel_aspect);
        (config.map(CodecConfig::Avc), visual.avcc.place)
    } else {
        let audio = AudioSampleEntry::parse(entry, stsd)?;
        let config = match audio.object_type {
            0x40 => AacConfig::parse(Bytes::copy_from_slice(audio.decoder_specific_info)),
            other => Err(CodecError::unsupported(format!(
                "object type {other:#x}, not MPEG-4 audio"
            ))),
        };
        (config.map(CodecConfig::Aac), audio.esds.place)
    };
    match codec {
        Ok(codec) => Ok(Ok(codec)),
        Err(error) if error.kind() == ParseErrorKind::Unsupported => Ok(Err(error.to_string())),
        Err(error) => Err(error.at(place)),
    }
}

/// Why a track with this sample entry and handler is left out; `None` for those that are read further.
fn unfit(entry: FourCc, handler: FourCc) -> Option<String> {
    let reason = match (&entry.0, &handler.0) {
        (b"avc1", b"vide") | (b"mp4a", b"soun") => return None,
        (b"avc1" | b"mp4a", _) => "the sample entry does not fit the handler",
        (b"encv" | b"enca" | b"encs" | b"enct", _) => "it is encrypted; give the clear mezzanine",
        (b"avc2" | b"avc3" | b"avc4", _) => {
            "AVC with parameter sets inside the samples; only avc1, with all of them in avcC, is packaged"
        }
        (b"hvc1" | b"hev1" | b"dvh1" | b"dvhe", _) => "HEVC is not packaged yet",
        (b"av01", _) => "AV1 is not packaged yet",
        (b"vp08" | b"vp09", _) => "VP8 and VP9 are not packaged",
        (b"ac-3" | b"ec-3" | b"ac-4", _) => "Dolby audio is not packaged yet",
        (b"Opus" | b"fLaC" | b"alac", _) => "of audio codecs only AAC-LC is packaged yet",
        (_, b"vide") => "of video codecs only AVC (avc1) is packaged",
        (_, b"soun") => "of audio codecs only AAC-LC (mp4a) is packaged",
        (_, b"text" | b"sbtl" | b"subt" | b"clcp") => "text tracks are not packaged yet",
        (_, b"meta" | b"tmcd" | b"hint") => "timed metadata is not packaged",
        _ => "it is neither video nor audio",
    };
    Some(reason.to_owned())
}

/// Why the track's samples are out of reach: they lie in another file.
fn elsewhere(
    minf: &BoxRef<'_>,
    information: &[BoxRef<'_>],
    entry: &BoxRef<'_>,
) -> Result<Option<String>, ParseError> {
    // QuickTime may leave dinf out; then samples are in the file.
    let Some(dinf) = only(information, b"dinf")? else {
        return Ok(None);
    };
    let dref = Dref::parse(required(dinf, &dinf.children()?, b"dref")?)?;
    let index = SampleEntry::parse(entry)?.data_reference_index;
    if dref.is_self_contained(index) {
        Ok(None)
    } else {
        Ok(Some(format!(
            "its samples lie in another file ({} data reference {index})",
            minf.place.path()
        )))
    }
}

fn handler_name(handler: FourCc) -> String {
    match &handler.0 {
        b"vide" => "video".to_owned(),
        b"soun" => "audio".to_owned(),
        b"text" | b"sbtl" | b"subt" | b"clcp" => "text".to_owned(),
        b"meta" => "metadata".to_owned(),
        _ => handler.to_string(),
    }
}

fn no_fit_track(ignored: &[IgnoredTrack]) -> String {
    let tracks: Vec<String> = ignored
        .iter()
        .map(|track| {
            format!(
                "track {} ({}): {}",
                track.track_id, track.what, track.reason
            )
        })
        .collect();
    format!("no track can be packaged: {}", tracks.join("; "))
}
