//! The CMAF header of one track: `ftyp` and a `moov` without samples (ISO/IEC 23000-19 7.3.1).

use keystore_types::Scheme;

use super::pssh::Pssh;
use super::sample_entry;
use super::sinf::TrackEncryption;
use super::writer::BoxWriter;
use crate::codec::{AvcConfig, CodecConfig, Media};
use crate::index::Track;
use crate::index::language::iso_639_2;

/// `track_ID` of the one track.
pub(crate) const TRACK_ID: u32 = 1;

/// The language of `mdhd` where there is none that it can hold.
const UNDETERMINED: [u8; 3] = *b"und";

/// Writes the header of `track`. The one edit skips what is decoded and not shown; a delay is in the decode
/// times already.
pub(crate) fn write(
    track: &Track,
    protection: Option<(Scheme, &TrackEncryption)>,
    pssh: &[Pssh],
) -> Vec<u8> {
    let mut writer = BoxWriter::new();
    let w = &mut writer;
    w.boxed(b"ftyp", |w| {
        w.raw(b"iso6");
        w.u32(0);
        w.raw(b"iso6");
        w.raw(b"cmfc");
        if let Some(brand) = media_profile(track) {
            w.raw(brand);
        }
    });
    w.boxed(b"moov", |w| {
        movie_header(w, track);
        w.boxed(b"trak", |w| {
            track_header(w, track);
            edit(w, track);
            media(w, track, protection);
        });
        w.boxed(b"mvex", |w| {
            w.full(b"trex", 0, 0, |w| {
                w.u32(TRACK_ID);
                w.u32(1); // default_sample_description_index
                w.zeros(12); // duration, size, flags: every fragment states its own
            });
        });
        pssh.iter().for_each(|pssh| pssh.write(w));
    });
    writer.into_bytes()
}

/// The brand of the CMAF media profile whose bounds the track keeps (ISO/IEC 23000-19 annex A, table 10.2).
fn media_profile(track: &Track) -> Option<&'static [u8; 4]> {
    match track.codec() {
        CodecConfig::Avc(avc) => avc_profile(avc, track),
        CodecConfig::Aac(aac) => {
            (aac.channels() <= 2 && aac.sample_rate() <= 48_000).then_some(b"caac")
        }
    }
}

fn avc_profile(avc: &AvcConfig, track: &Track) -> Option<&'static [u8; 4]> {
    let [_, profile, _, level, ..] = *avc.avcc().as_ref() else {
        return None;
    };
    let (width, height) = (avc.width(), avc.height());
    let at_most_60_frames = u64::from(track.sample_count()) * u64::from(track.timescale().get())
        <= 60 * track.total_duration();
    let standard_colour = avc
        .colour()
        .is_some_and(|colour| matches!(colour.primaries, 1 | 5 | 6));
    let high_or_less = matches!(profile, 66 | 77 | 100);
    if !(at_most_60_frames && standard_colour && high_or_less) {
        return None;
    }
    match level {
        ..=31 if width <= 864 && height <= 576 => Some(b"cfsd"),
        ..=40 if width <= 1920 && height <= 1080 => Some(b"cfhd"),
        ..=42 if width <= 1920 && height <= 1080 => Some(b"chdf"),
        _ => None,
    }
}

fn movie_header(w: &mut BoxWriter, track: &Track) {
    w.full(b"mvhd", 0, 0, |w| {
        w.zeros(8); // no time of creation: the same bytes for ever
        w.u32(track.timescale().get());
        w.u32(0); // the fragments have the duration
        w.u32(0x0001_0000); // rate
        w.u16(0x0100); // volume
        w.zeros(10);
        UNITY.iter().for_each(|&value| w.i32(value));
        w.zeros(24);
        w.u32(TRACK_ID + 1);
    });
}

const UNITY: [i32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];

fn track_header(w: &mut BoxWriter, track: &Track) {
    const ENABLED_AND_IN_MOVIE: u32 = 3;
    let (volume, width, height) = match track.codec() {
        CodecConfig::Avc(avc) => (0, shown_width(avc), u32::from(avc.height()) << 16),
        CodecConfig::Aac(_) => (0x0100, 0, 0),
    };
    w.full(b"tkhd", 0, ENABLED_AND_IN_MOVIE, |w| {
        w.zeros(8);
        w.u32(TRACK_ID);
        w.zeros(4);
        w.u32(0); // duration
        w.zeros(8);
        w.u16(0); // layer
        w.u16(0); // alternate_group
        w.u16(volume);
        w.zeros(2);
        track.matrix().iter().for_each(|&value| w.i32(value));
        w.u32(width);
        w.u32(height);
    });
}

/// Width in square pixels, 16.16: the pixels are stretched, never shrunk in number.
fn shown_width(avc: &AvcConfig) -> u32 {
    let aspect = avc.pixel_aspect();
    let width = (u128::from(avc.width()) << 16) * u128::from(aspect.horizontal)
        / u128::from(aspect.vertical.max(1));
    u32::try_from(width).unwrap_or(u32::from(avc.width()) << 16)
}

fn edit(w: &mut BoxWriter, track: &Track) {
    let skip = track.edit().skip;
    if skip == 0 {
        return;
    }
    w.boxed(b"edts", |w| {
        w.full(b"elst", 1, 0, |w| {
            w.u32(1);
            w.u64(0); // to the end, whatever the fragments bring
            w.u64(skip.cast_unsigned());
            w.u32(0x0001_0000); // rate
        });
    });
}

fn media(w: &mut BoxWriter, track: &Track, protection: Option<(Scheme, &TrackEncryption)>) {
    let (handler, name): (_, &[u8]) = match track.codec().media() {
        Media::Video => (b"vide", b"video\0"),
        Media::Audio => (b"soun", b"audio\0"),
    };
    w.boxed(b"mdia", |w| {
        w.full(b"mdhd", 0, 0, |w| {
            w.zeros(8);
            w.u32(track.timescale().get());
            w.u32(0);
            w.u16(packed(track.language()));
            w.u16(0);
        });
        w.full(b"hdlr", 0, 0, |w| {
            w.u32(0);
            w.raw(handler);
            w.zeros(12);
            w.raw(name);
        });
        // `mdhd` holds the primary language only; the tag itself stands in `elng` (8.4.6).
        if let Some(language) = track.language() {
            w.full(b"elng", 0, 0, |w| {
                w.raw(language.as_bytes());
                w.u8(0);
            });
        }
        w.boxed(b"minf", |w| {
            match track.codec().media() {
                Media::Video => w.full(b"vmhd", 0, 1, |w| w.zeros(8)),
                Media::Audio => w.full(b"smhd", 0, 0, |w| w.zeros(4)),
            }
            w.boxed(b"dinf", |w| {
                w.full(b"dref", 0, 0, |w| {
                    w.u32(1);
                    w.full(b"url ", 0, 1, |_| ()); // the media is in this file
                });
            });
            w.boxed(b"stbl", |w| {
                w.full(b"stsd", 0, 0, |w| {
                    w.u32(1);
                    sample_entry::write(w, track.codec(), protection);
                });
                w.full(b"stts", 0, 0, |w| w.u32(0));
                w.full(b"stsc", 0, 0, |w| w.u32(0));
                w.full(b"stsz", 0, 0, |w| w.zeros(8));
                w.full(b"stco", 0, 0, |w| w.u32(0));
            });
        });
    });
}

/// A three-letter code in three times five bits (8.4.2.3).
fn packed(language: Option<&str>) -> u16 {
    let code = language.and_then(iso_639_2).unwrap_or(UNDETERMINED);
    code.iter()
        .fold(0, |packed, letter| packed << 5 | u16::from(letter - 0x60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_packed_or_undetermined() {
        assert_eq!(packed(None), 0x55c4);
        assert_eq!(packed(Some("en-GB")), 0x15c7);
        assert_eq!(packed(Some("x-klingon")), 0x55c4);
    }
}
