//! `styp`, `moof` and the header of `mdat`: all of a segment but its samples (ISO/IEC 14496-12 8.8, 8.16.2;
//! ISO/IEC 23001-7 7).

use super::header::TRACK_ID;
use super::writer::BoxWriter;
use crate::index::protection::Subsample;

/// What `trun` says about a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) duration: u32,
    pub(crate) size: u32,
    pub(crate) composition_offset: i32,
    pub(crate) sync: bool,
}

/// What `senc` says about a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Auxiliary<'a> {
    /// The 8-byte IV; `None` where the IV is constant.
    pub(crate) iv: Option<[u8; 8]>,
    /// `None` where samples are protected whole.
    pub(crate) subsamples: Option<&'a [Subsample]>,
}

/// One movie fragment of one track.
pub(crate) struct Fragment<'a> {
    /// `sequence_number` of `mfhd`.
    pub(crate) sequence: u32,
    /// `baseMediaDecodeTime` of `tfdt`.
    pub(crate) decode_time: u64,
    /// Its samples; at least one.
    pub(crate) samples: &'a [Sample],
    /// One for each sample, all of one kind; empty where `senc` has nothing to say (clear, or `cbcs` audio).
    pub(crate) auxiliary: &'a [Auxiliary<'a>],
}

/// `sample_depends_on` 2: depends on no other.
const SYNC: u32 = 0x0200_0000;
/// `sample_depends_on` 1: depends on others; `sample_is_non_sync_sample`.
const NON_SYNC: u32 = 0x0101_0000;

/// Writes `styp`, `moof` and the `mdat` header of a segment of one fragment.
///
/// The fragment is bounded: `trun` holds its `data_offset` in 31 bits, and callers refuse segments near 4 GiB.
pub(crate) fn write(fragment: &Fragment<'_>) -> Vec<u8> {
    let mut writer = BoxWriter::new();
    let w = &mut writer;
    w.boxed(b"styp", |w| {
        w.raw(b"msdh");
        w.u32(0);
        w.raw(b"msdh");
        w.raw(b"cmfs");
    });
    let moof = w.position();
    // Both offsets count from the first byte of moof, and are known when it is done.
    let mut data_offset = 0;
    w.boxed(b"moof", |w| {
        w.full(b"mfhd", 0, 0, |w| w.u32(fragment.sequence));
        w.boxed(b"traf", |w| {
            let defaults = Defaults::of(fragment.samples);
            track_fragment_header(w, &defaults);
            w.full(b"tfdt", 1, 0, |w| w.u64(fragment.decode_time));
            data_offset = track_run(w, fragment.samples, &defaults);
            auxiliary(w, fragment.auxiliary, moof);
        });
    });
    let media: u64 = fragment
        .samples
        .iter()
        .map(|sample| u64::from(sample.size))
        .sum();
    w.header_of(b"mdat", media);
    let offset = u32::try_from(w.position() - moof).expect("headers are bounded far below 2 GiB");
    w.put_u32(data_offset, offset);
    writer.into_bytes()
}

/// What all samples of a fragment share.
struct Defaults {
    duration: Option<u32>,
    /// Flags of every sample, or of every sample after the first.
    flags: Option<u32>,
    first_flags: Option<u32>,
}

impl Defaults {
    fn of(samples: &[Sample]) -> Self {
        let flags = |sample: &Sample| if sample.sync { SYNC } else { NON_SYNC };
        let duration = shared(samples.iter().map(|sample| sample.duration));
        let all = shared(samples.iter().map(flags));
        let rest = shared(samples.iter().skip(1).map(flags));
        match (all, rest) {
            (Some(all), _) => Self {
                duration,
                flags: Some(all),
                first_flags: None,
            },
            (None, Some(rest)) => Self {
                duration,
                flags: Some(rest),
                first_flags: samples.first().map(flags),
            },
            (None, None) => Self {
                duration,
                flags: None,
                first_flags: None,
            },
        }
    }
}

/// The one value that all of `values` are, if they are.
fn shared(mut values: impl Iterator<Item = u32>) -> Option<u32> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

fn track_fragment_header(w: &mut BoxWriter, defaults: &Defaults) {
    const DEFAULT_DURATION: u32 = 0x08;
    const DEFAULT_FLAGS: u32 = 0x20;
    const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
    let mut flags = DEFAULT_BASE_IS_MOOF;
    flags |= if defaults.duration.is_some() {
        DEFAULT_DURATION
    } else {
        0
    };
    flags |= if defaults.flags.is_some() {
        DEFAULT_FLAGS
    } else {
        0
    };
    w.full(b"tfhd", 0, flags, |w| {
        w.u32(TRACK_ID);
        defaults
            .duration
            .into_iter()
            .for_each(|duration| w.u32(duration));
        defaults.flags.into_iter().for_each(|flags| w.u32(flags));
    });
}

/// Writes `trun` and returns where its `data_offset` stands.
fn track_run(w: &mut BoxWriter, samples: &[Sample], defaults: &Defaults) -> usize {
    const DATA_OFFSET: u32 = 0x01;
    const FIRST_FLAGS: u32 = 0x04;
    const DURATION: u32 = 0x100;
    const SIZE: u32 = 0x200;
    const FLAGS: u32 = 0x400;
    const COMPOSITION_OFFSET: u32 = 0x800;
    let mut flags = DATA_OFFSET | SIZE;
    flags |= if defaults.first_flags.is_some() {
        FIRST_FLAGS
    } else {
        0
    };
    flags |= if defaults.duration.is_none() {
        DURATION
    } else {
        0
    };
    flags |= if defaults.flags.is_none() { FLAGS } else { 0 };
    let composed = samples.iter().any(|sample| sample.composition_offset != 0);
    flags |= if composed { COMPOSITION_OFFSET } else { 0 };
    // Version 1 makes the offsets signed.
    let version = u8::from(samples.iter().any(|sample| sample.composition_offset < 0));
    let mut data_offset = 0;
    w.full(b"trun", version, flags, |w| {
        w.u32(count(samples.len()));
        data_offset = w.position();
        w.u32(0);
        defaults
            .first_flags
            .into_iter()
            .for_each(|flags| w.u32(flags));
        for sample in samples {
            if defaults.duration.is_none() {
                w.u32(sample.duration);
            }
            w.u32(sample.size);
            if defaults.flags.is_none() {
                w.u32(if sample.sync { SYNC } else { NON_SYNC });
            }
            if composed {
                w.i32(sample.composition_offset);
            }
        }
    });
    data_offset
}

/// Writes `saiz`, `saio` and `senc`, unless no sample has anything to say.
fn auxiliary(w: &mut BoxWriter, auxiliary: &[Auxiliary<'_>], moof: usize) {
    const SUBSAMPLES: u32 = 2;
    let Some(first) = auxiliary.first() else {
        return;
    };
    let with_subsamples = first.subsamples.is_some();
    let size = |entry: &Auxiliary<'_>| {
        let subsamples = entry
            .subsamples
            .map_or(0, |subsamples| 2 + 6 * subsamples.len());
        u8::try_from(entry.iv.map_or(0, |iv| iv.len()) + subsamples)
            .expect("the fragment's builder refuses samples with more than MAX_SUBSAMPLES")
    };
    let default = auxiliary
        .iter()
        .all(|entry| size(entry) == size(first))
        .then(|| size(first));
    w.full(b"saiz", 0, 0, |w| {
        w.u8(default.unwrap_or(0));
        w.u32(count(auxiliary.len()));
        if default.is_none() {
            auxiliary.iter().for_each(|entry| w.u8(size(entry)));
        }
    });
    let mut offset = 0;
    w.full(b"saio", 0, 0, |w| {
        w.u32(1);
        offset = w.position();
        w.u32(0);
    });
    w.full(
        b"senc",
        0,
        if with_subsamples { SUBSAMPLES } else { 0 },
        |w| {
            w.u32(count(auxiliary.len()));
            let entries =
                u32::try_from(w.position() - moof).expect("headers are bounded far below 4 GiB");
            w.put_u32(offset, entries);
            for entry in auxiliary {
                entry.iv.iter().for_each(|iv| w.raw(iv));
                if let Some(subsamples) = entry.subsamples {
                    let count = u16::try_from(subsamples.len()).expect("at most MAX_SUBSAMPLES");
                    w.u16(count);
                    for subsample in subsamples {
                        w.u16(subsample.clear);
                        w.u32(subsample.protected);
                    }
                }
            }
        },
    );
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("samples count in 32 bits")
}
