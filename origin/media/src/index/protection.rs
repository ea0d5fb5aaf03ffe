//! The second layer of an index: which bytes of a video sample are protected.
//!
//! Rule 1 ([`keystore_types::SUBSAMPLE_RULE`]). Of each coded slice (NAL unit types 1 and 5) everything up to
//! the first whole byte after its slice header is clear, and the rest is its payload; everything else is clear
//! (ISO/IEC 23001-7 9.5.2). A payload without one whole block of 16 bytes stays clear too, since no scheme
//! would encrypt a byte of it. Then:
//!
//! - `cbcs` protects each payload to its end (10.4.2); what is left of a block at the end is clear by the
//!   cipher's own rule.
//! - `cenc` protects whole blocks only: what is left is moved to the front, to the clear side (9.5.2.4).
//!
//! So one map, of slice payloads, serves both schemes, and a sample has as many subsamples under one as
//! under the other unless a clear run passes 65,535 bytes on the way. Clear runs between payloads are merged.
//!
//! # The map file
//!
//! Numbers are little-endian; the columns are read in place.
//!
//! ```text
//! offset  bytes
//!      0      8  "castmap\n"
//!      8      4  format: 2
//!     12      4  rule: 1
//!     16      4  track_ID
//!     20      4  number of samples, n
//!     24      8  length of this file
//!     32     32  SHA-256 of the source's moov box
//!     64      4  CRC-32 of this file with these 4 bytes left out
//!     68      4  0
//!     72  8(n+1)  prefix sums of the numbers of entries, the first 0
//!      -      8  each entry: clear 4, payload 4; a last clear run has payload 0
//! ```

use bytes::Bytes;
use keystore_types::{SUBSAMPLE_RULE, Scheme};

use super::file::checksum;
use super::{Index, IndexFileError, Track};
use crate::codec::AvcConfig;
use crate::codec::avc::{NalKind, slice_header_len};
use crate::error::{ParseError, ParseErrorKind, Place};

/// A run of clear bytes and the run of protected bytes after it, as a record of `senc` has them (ISO/IEC
/// 23001-7 7.2.2). Either may be 0, not both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subsample {
    /// `BytesOfClearData`.
    pub clear: u16,
    /// `BytesOfProtectedData`.
    pub protected: u32,
}

/// The most subsamples of one sample: its auxiliary information, whose size `saiz` gives in one byte, holds
/// an 8-byte IV, a count of 2 bytes and 6 bytes for each (ISO/IEC 14496-12 8.7.8).
pub const MAX_SUBSAMPLES: usize = (255 - 2 - 8) / 6;

/// Bytes of a cipher block: less than that is not encrypted.
const BLOCK: u32 = 16;

/// Appends the subsamples of `sample` under `scheme` to `out`; together they cover every byte of it.
///
/// # Errors
/// The sample's NAL units or slice headers are malformed, or it needs what an `avc1` track does not have
/// (parameter sets of its own, data partitions) or more than [`MAX_SUBSAMPLES`]. Offsets in the error count
/// from the start of the sample. What was appended before the error is taken back.
pub fn map_sample(
    config: &AvcConfig,
    scheme: Scheme,
    sample: &[u8],
    out: &mut Vec<Subsample>,
) -> Result<(), ParseError> {
    let mut counted = Counted::default();
    let before = out.len();
    let result = payloads(config, sample, &mut |payload| {
        counted.add(payload)?;
        out.extend(payload.subsamples(scheme));
        Ok(())
    });
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// A clear run and a slice payload, before a scheme decides how they are cut. Only a last run has no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Payload {
    clear: u32,
    payload: u32,
}

impl Payload {
    fn subsamples(self, scheme: Scheme) -> Subsamples {
        let moved = match scheme {
            Scheme::Cenc => self.payload % BLOCK,
            Scheme::Cbcs => 0,
        };
        Subsamples {
            clear: self.clear + moved,
            protected: self.payload - moved,
        }
    }
}

/// The subsamples of one payload: one, unless the clear run is longer than 16 bits can say (E7).
#[derive(Clone)]
struct Subsamples {
    clear: u32,
    protected: u32,
}

impl Iterator for Subsamples {
    type Item = Subsample;

    fn next(&mut self) -> Option<Subsample> {
        if self.clear == 0 && self.protected == 0 {
            return None;
        }
        let clear = u16::try_from(self.clear).unwrap_or(u16::MAX);
        self.clear -= u32::from(clear);
        // The payload follows its last clear bytes.
        let protected = if self.clear == 0 {
            std::mem::take(&mut self.protected)
        } else {
            0
        };
        Some(Subsample { clear, protected })
    }
}

/// Counts subsamples, of the scheme that needs more, and refuses too many (E8).
#[derive(Default)]
struct Counted(usize);

impl Counted {
    fn add(&mut self, payload: Payload) -> Result<(), ParseError> {
        let [cenc, cbcs] = Scheme::ALL.map(|scheme| payload.subsamples(scheme).count());
        self.0 += cenc.max(cbcs);
        if self.0 > MAX_SUBSAMPLES {
            return Err(ParseError::new(
                ParseErrorKind::Unsupported,
                Place::new("sample", 0),
                format!(
                    "more than {MAX_SUBSAMPLES} slices to protect in one sample; saiz counts its \
                     auxiliary information in one byte"
                ),
            ));
        }
        Ok(())
    }
}

/// Gives each slice payload of `sample`, with the clear run before it, to `take`.
fn payloads(
    config: &AvcConfig,
    sample: &[u8],
    take: &mut dyn FnMut(Payload) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let fits = |len: usize| {
        u32::try_from(len).map_err(|_| {
            ParseError::malformed(Place::new("sample", 0), "a sample of more than 2^32 bytes")
        })
    };
    let length_size = config.nal_length_size().bytes();
    let mut clear_from = 0;
    for unit in config.nal_units(sample) {
        let unit = unit?;
        let place = || Place::new("sample", unit.offset as u64);
        match unit.kind() {
            NalKind::Slice => {
                let header = slice_header_len(unit.bytes, config.parameter_sets())
                    .map_err(|error| error.at(place()))?
                    .bytes;
                let payload = fits(unit.bytes.len() - header)?;
                if payload >= BLOCK {
                    let begins = unit.offset + length_size + header;
                    take(Payload {
                        clear: fits(begins - clear_from)?,
                        payload,
                    })?;
                    clear_from = unit.offset + length_size + unit.bytes.len();
                }
            }
            NalKind::Partition => {
                return Err(ParseError::unsupported(place(), "a slice data partition"));
            }
            NalKind::ParameterSet => {
                if !config.parameter_sets().contains(unit.bytes) {
                    return Err(ParseError::unsupported(
                        place(),
                        "a parameter set that avcC does not hold; in an avc1 track all are there",
                    ));
                }
            }
            NalKind::Other => {}
        }
    }
    if clear_from < sample.len() {
        take(Payload {
            clear: fits(sample.len() - clear_from)?,
            payload: 0,
        })?;
    }
    Ok(())
}

/// The protection map of one video track, for both schemes.
#[derive(Clone, Debug)]
pub struct ProtectionMap {
    bytes: Bytes,
    count: u32,
}

const MAP_MAGIC: [u8; 8] = *b"castmap\n";
const MAP_FORMAT: u32 = 2;
const CHECKSUM_AT: usize = 64;
const SUMS_AT: usize = CHECKSUM_AT + 8;
const ENTRY: u64 = 8;

impl ProtectionMap {
    /// Opens the file form of the map of `track` of `index`; `bytes` may be memory or a mapped file.
    ///
    /// # Errors
    /// The bytes are cut off, damaged, of another format or rule, or of another source or track.
    pub fn from_bytes(bytes: Bytes, index: &Index, track: &Track) -> Result<Self, IndexFileError> {
        let header = bytes.get(..SUMS_AT).ok_or(IndexFileError::Foreign)?;
        if header[..8] != MAP_MAGIC {
            return Err(IndexFileError::Foreign);
        }
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if word(8) != MAP_FORMAT {
            return Err(IndexFileError::Format(word(8)));
        }
        if word(12) != u32::from(SUBSAMPLE_RULE) {
            return Err(IndexFileError::Content("another subsample rule"));
        }
        let len = u64::from(word(24)) | u64::from(word(28)) << 32;
        if bytes.len() as u64 != len {
            return Err(IndexFileError::Length);
        }
        if header[CHECKSUM_AT..CHECKSUM_AT + 4] != checksum(&bytes, CHECKSUM_AT) {
            return Err(IndexFileError::Checksum);
        }
        let of_track = word(16) == track.track_id()
            && word(20) == track.sample_count()
            && header[32..CHECKSUM_AT] == *index.moov_digest();
        if !of_track {
            return Err(IndexFileError::Content(
                "it belongs to another source or track",
            ));
        }
        let map = Self {
            count: track.sample_count(),
            bytes,
        };
        let entries = map.bytes.len().checked_sub(map.entries_at());
        let fills = |entries: usize| {
            map.entries_before(map.count).checked_mul(ENTRY) == Some(entries as u64)
        };
        if !entries.is_some_and(fills) {
            return Err(IndexFileError::Content("its columns do not fill it"));
        }
        Ok(map)
    }

    /// The file form.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The subsamples of sample `n` under `scheme`, as [`map_sample`] gives them.
    ///
    /// # Panics
    /// When `n` is not below the number of samples.
    pub fn lookup(&self, n: u32, scheme: Scheme) -> impl Iterator<Item = Subsample> + Clone + '_ {
        assert!(n < self.count, "sample {n} of {}", self.count);
        let place = |entries: u64| {
            self.entries_at()
                + usize::try_from(entries * ENTRY).expect("checked against the file's length")
        };
        let entries = &self.bytes[place(self.entries_before(n))..place(self.entries_before(n + 1))];
        entries
            .as_chunks()
            .0
            .iter()
            .flat_map(move |[a, b, c, d, e, f, g, h]| {
                let clear = u32::from_le_bytes([*a, *b, *c, *d]);
                let payload = u32::from_le_bytes([*e, *f, *g, *h]);
                Payload { clear, payload }.subsamples(scheme)
            })
    }

    fn entries_at(&self) -> usize {
        SUMS_AT + 8 * (self.count as usize + 1)
    }

    fn entries_before(&self, n: u32) -> u64 {
        let at = SUMS_AT + 8 * n as usize;
        u64::from_le_bytes(
            self.bytes[at..at + 8]
                .try_into()
                .expect("a range of 8 bytes"),
        )
    }
}

/// Makes the map of a track from its samples, given one after the other.
#[derive(Debug)]
pub struct ProtectionMapBuilder<'a> {
    track: &'a Track,
    config: &'a AvcConfig,
    moov_digest: [u8; 32],
    sums: Vec<u8>,
    entries: Vec<u8>,
    next: u32,
}

impl<'a> ProtectionMapBuilder<'a> {
    /// A builder for `track` of `index`; `None` for audio, which has no subsamples.
    pub fn new(index: &Index, track: &'a Track) -> Option<Self> {
        let config = track.codec().as_avc()?;
        let mut sums = Vec::with_capacity(8 * (track.sample_count() as usize + 1));
        sums.extend_from_slice(&0_u64.to_le_bytes());
        Some(Self {
            track,
            config,
            moov_digest: *index.moov_digest(),
            sums,
            entries: Vec::new(),
            next: 0,
        })
    }

    /// The sample whose bytes are wanted next; `None` when the map is complete.
    pub fn wants(&self) -> Option<u32> {
        (self.next < self.track.sample_count()).then_some(self.next)
    }

    /// Takes the bytes of the sample that [`ProtectionMapBuilder::wants`] names.
    ///
    /// # Errors
    /// As [`map_sample`], with the sample's number in the place. The builder can go no further.
    pub fn push(&mut self, sample: &[u8]) -> Result<(), ParseError> {
        let mut counted = Counted::default();
        let entries = &mut self.entries;
        payloads(self.config, sample, &mut |payload| {
            counted.add(payload)?;
            entries.extend_from_slice(&payload.clear.to_le_bytes());
            entries.extend_from_slice(&payload.payload.to_le_bytes());
            Ok(())
        })
        .map_err(|error| {
            let path = format!("track {} sample {}", self.track.track_id(), self.next);
            let place = Place::new(path, error.place().offset());
            ParseError::new(error.kind(), place, error.reason())
        })?;
        self.sums
            .extend_from_slice(&(self.entries.len() as u64 / ENTRY).to_le_bytes());
        self.next += 1;
        Ok(())
    }

    /// The map, once [`ProtectionMapBuilder::wants`] no more samples; `None` before.
    pub fn finish(self) -> Option<ProtectionMap> {
        if self.wants().is_some() {
            return None;
        }
        let count = self.track.sample_count();
        let len = SUMS_AT + self.sums.len() + self.entries.len();
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&MAP_MAGIC);
        for word in [
            MAP_FORMAT,
            SUBSAMPLE_RULE.into(),
            self.track.track_id(),
            count,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(len as u64).to_le_bytes());
        out.extend_from_slice(&self.moov_digest);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.sums);
        out.extend_from_slice(&self.entries);
        let checksum = checksum(&out, CHECKSUM_AT);
        out[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum);
        Some(ProtectionMap {
            bytes: out.into(),
            count,
        })
    }
}
