//! The index file, to the byte.
//!
//! All numbers are little-endian. Columns are aligned to 8 bytes and read in place.
//!
//! ```text
//! offset  bytes
//!      0      8  "castidx\n"
//!      8      4  format: 2
//!     12      4  length of the description
//!     16      8  length of this file
//!     24      8  length of the source
//!     32     32  SHA-256 of the source's moov box
//!     64      4  CRC-32 of this file with these 4 bytes left out
//!     68      -  description
//!      -      -  columns
//!
//! description
//!             4  number of tracks, then for each
//!             4    track_ID
//!             4    timescale
//!             8    skip of the edit list, in ticks
//!             8    delay of the edit list, in ticks
//!            36    matrix
//!             -    language, empty if undetermined      (texts: 4 bytes of length, UTF-8)
//!             -    name
//!             1    codec: 1 AVC, 2 AAC-LC
//!                  AVC:
//!             -      body of avcC                       (4 bytes of length, bytes)
//!             1      colour: 0 none, 1 present; then
//!             7        primaries 2, transfer 2, matrix 2, full range 1
//!             8      pixel aspect: horizontal 4, vertical 4
//!                  AAC:
//!             -      AudioSpecificConfig                (4 bytes of length, bytes)
//!             4    number of samples, n
//!             8    ticks of all samples
//!             8    latest end of a composed sample
//!             1    1 if all samples are sync samples
//!        12 x 9    columns: offset in this file 8, numbers in it 4
//!                    sizes         u64   n + 1 prefix sums
//!                    run_samples   u32   } samples that follow each other in the source:
//!                    run_offsets   u64   } the first one, and where its first byte is
//!                    time_samples  u32   } samples of one duration:
//!                    time_starts   u64   } the first one,
//!                    time_deltas   u32   } its decode time, and the duration
//!                    compositions  i32   n composition offsets, or none if all are 0
//!                    syncs         u32   sync samples, or none if all are
//!                    dependencies  u8    n bytes of sdtp, or none
//!             4  number of ignored tracks, then for each
//!             4    track_ID
//!             -    what it is
//!             -    why it is left out
//! ```

use std::io::{self, Write};

use bytes::Bytes;

use super::samples::{Samples, U32s, U64s};
use super::{Edit, IgnoredTrack, Index, MAX_TRACKS, Track};
use crate::codec::{AacConfig, AvcConfig, CodecConfig, Colour, PixelAspect};
use crate::time::Timescale;

/// The format that this version writes, and the only one that it reads: an index is a cache, and an older
/// one is rebuilt.
pub const INDEX_FORMAT: u32 = 2;

const MAGIC: [u8; 8] = *b"castidx\n";
const CHECKSUM_AT: usize = 64;
const DESCRIPTION_AT: usize = CHECKSUM_AT + 4;

/// The bytes are not an index that this version reads: rebuild it from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFileError {
    /// The file does not begin as an index does, or ends inside its header.
    #[error("not an index file")]
    Foreign,
    /// The file is of a format that this version does not read.
    #[error("index format {0}; this version reads {INDEX_FORMAT}")]
    Format(u32),
    /// The file has another length than it says.
    #[error("the index file is cut off or has grown")]
    Length,
    /// The checksum does not match.
    #[error("the index file is damaged: its checksum does not match")]
    Checksum,
    /// The checksum matches and the content makes no sense: written by something else.
    #[error("the index file contradicts itself: {0}")]
    Content(&'static str),
}

impl Index {
    /// Opens the file form, whose columns are then read in place: `bytes` may be memory or a mapped file.
    ///
    /// # Errors
    /// The bytes are cut off, damaged, of another format or not an index at all.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, IndexFileError> {
        let header = bytes.get(..DESCRIPTION_AT).ok_or(IndexFileError::Foreign)?;
        let mut reader = Reader(header);
        if reader.array()? != MAGIC {
            return Err(IndexFileError::Foreign);
        }
        let format = reader.u32()?;
        if format != INDEX_FORMAT {
            return Err(IndexFileError::Format(format));
        }
        let description_len = reader.u32()?;
        if reader.u64()? != bytes.len() as u64 {
            return Err(IndexFileError::Length);
        }
        let file_len = reader.u64()?;
        let moov_digest = reader.array()?;
        if reader.array()? != checksum(&bytes, CHECKSUM_AT) {
            return Err(IndexFileError::Checksum);
        }
        let description = bytes[DESCRIPTION_AT..]
            .get(..description_len as usize)
            .ok_or(IndexFileError::Content(
                "the description is longer than the file",
            ))?;
        let mut reader = Reader(description);
        let tracks = reader.list(|reader| read_track(reader, &bytes))?;
        let ignored = reader.list(|reader| {
            Ok(IgnoredTrack {
                track_id: reader.u32()?,
                what: reader.text()?,
                reason: reader.text()?,
            })
        })?;
        Ok(Self {
            file_len,
            moov_digest,
            tracks,
            ignored,
            bytes,
        })
    }
}

/// Everything of an index but its bytes, as the builder knows it.
pub(super) struct Parts {
    pub(super) file_len: u64,
    pub(super) moov_digest: [u8; 32],
    pub(super) tracks: Vec<TrackParts>,
    pub(super) ignored: Vec<IgnoredTrack>,
}

/// Everything of a track but where its columns lie.
pub(super) struct TrackParts {
    pub(super) track_id: u32,
    pub(super) codec: CodecConfig,
    pub(super) timescale: Timescale,
    pub(super) language: Option<String>,
    pub(super) name: String,
    pub(super) matrix: [i32; 9],
    pub(super) edit: Edit,
    pub(super) columns: Columns,
}

/// The columns of a track, as in [`Samples`], each as the bytes of the file.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) count: u32,
    pub(super) duration: u64,
    pub(super) composition_end: i64,
    pub(super) all_sync: bool,
    pub(super) sizes: Column<8>,
    pub(super) run_samples: Column<4>,
    pub(super) run_offsets: Column<8>,
    pub(super) time_samples: Column<4>,
    pub(super) time_starts: Column<8>,
    pub(super) time_deltas: Column<4>,
    pub(super) compositions: Column<4>,
    pub(super) syncs: Column<4>,
    pub(super) dependencies: Column<1>,
}

/// Numbers of `N` bytes, as they stand in the file.
#[derive(Default)]
pub(super) struct Column<const N: usize>(Vec<u8>);

impl Column<4> {
    pub(super) fn push(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Number `n`, or 0 where the column is shorter.
    pub(super) fn get(&self, n: usize) -> u32 {
        self.0
            .as_chunks()
            .0
            .get(n)
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

impl Column<8> {
    pub(super) fn push(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Number `n`, or 0 where the column is shorter.
    pub(super) fn get(&self, n: usize) -> u64 {
        self.0
            .as_chunks()
            .0
            .get(n)
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

impl<const N: usize> Column<N> {
    pub(super) fn with_capacity(numbers: usize) -> Self {
        Self(Vec::with_capacity(numbers * N))
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len() / N
    }
}

/// An index that has just been built and lies nowhere yet.
pub struct Draft(Parts);

impl Draft {
    pub(super) fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// Writes the file form, which [`Index::from_bytes`] opens. It is never in memory as a whole: for a film that
    /// would be thousands of fresh pages.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        const PADDING: [u8; 8] = [0; 8];
        let mut columns = Vec::new();
        let head = self.0.head(&mut columns);
        out.write_all(&head)?;
        for column in columns {
            out.write_all(column)?;
            out.write_all(&PADDING[..padding(column.len())])?;
        }
        Ok(())
    }

    /// The index, in memory.
    pub fn into_index(self) -> Index {
        let mut bytes = Vec::new();
        self.write(&mut bytes)
            .expect("memory takes all that is written to it");
        // The one way to an index is through its file form, so that a fresh index and a kept one cannot differ.
        Index::from_bytes(bytes.into()).expect("the reader reads what the writer writes")
    }
}

/// What a column of `len` bytes lacks to the place of the next.
fn padding(len: usize) -> usize {
    len.next_multiple_of(8) - len
}

impl Parts {
    /// All before the columns, which are gathered in their order.
    fn head<'a>(&'a self, columns: &mut Vec<&'a [u8]>) -> Vec<u8> {
        // The columns' offsets depend on the length of the description, which they do not change.
        let description_len = self.describe(&mut Vec::new(), 0).len();
        let columns_at = (DESCRIPTION_AT + description_len).next_multiple_of(8);
        let description = self.describe(columns, columns_at);
        let of_columns: usize = columns
            .iter()
            .map(|column| column.len().next_multiple_of(8))
            .sum();

        let mut out = Writer(Vec::with_capacity(columns_at));
        out.0.extend_from_slice(&MAGIC);
        out.u32(INDEX_FORMAT);
        out.len(description.len());
        out.u64((columns_at + of_columns) as u64);
        out.u64(self.file_len);
        out.0.extend_from_slice(&self.moov_digest);
        out.0.extend_from_slice(&[0; 4]);
        out.0.extend_from_slice(&description);
        out.0.resize(columns_at, 0);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&out.0[..CHECKSUM_AT]);
        crc.update(&out.0[DESCRIPTION_AT..]);
        for column in columns {
            crc.update(column);
            crc.update(&[0; 8][..padding(column.len())]);
        }
        out.0[CHECKSUM_AT..DESCRIPTION_AT].copy_from_slice(&crc.finalize().to_le_bytes());
        out.0
    }

    /// The description, for columns that begin at `at`; gathers those in their order.
    fn describe<'a>(&'a self, columns: &mut Vec<&'a [u8]>, mut at: usize) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.len(self.tracks.len());
        for track in &self.tracks {
            out.u32(track.track_id);
            out.u32(track.timescale.get());
            out.i64(track.edit.skip);
            out.i64(track.edit.delay);
            for value in track.matrix {
                out.0.extend_from_slice(&value.to_le_bytes());
            }
            out.text(track.language.as_deref().unwrap_or_default());
            out.text(&track.name);
            write_codec(&mut out, &track.codec);
            let c = &track.columns;
            out.u32(c.count);
            out.u64(c.duration);
            out.i64(c.composition_end);
            out.0.push(c.all_sync.into());
            for (bytes, width) in [
                (&c.sizes.0, 8),
                (&c.run_samples.0, 4),
                (&c.run_offsets.0, 8),
                (&c.time_samples.0, 4),
                (&c.time_starts.0, 8),
                (&c.time_deltas.0, 4),
                (&c.compositions.0, 4),
                (&c.syncs.0, 4),
                (&c.dependencies.0, 1),
            ] {
                out.u64(at as u64);
                out.len(bytes.len() / width);
                at += bytes.len().next_multiple_of(8);
                columns.push(bytes);
            }
        }
        out.len(self.ignored.len());
        for ignored in &self.ignored {
            out.u32(ignored.track_id);
            out.text(&ignored.what);
            out.text(&ignored.reason);
        }
        out.0
    }
}

const AVC: u8 = 1;
const AAC: u8 = 2;

fn write_codec(out: &mut Writer, codec: &CodecConfig) {
    match codec {
        CodecConfig::Avc(avc) => {
            out.0.push(AVC);
            out.bytes(avc.avcc());
            match avc.colour() {
                None => out.0.push(0),
                Some(colour) => {
                    out.0.push(1);
                    for value in [colour.primaries, colour.transfer, colour.matrix] {
                        out.0.extend_from_slice(&value.to_le_bytes());
                    }
                    out.0.push(colour.full_range.into());
                }
            }
            out.u32(avc.pixel_aspect().horizontal);
            out.u32(avc.pixel_aspect().vertical);
        }
        CodecConfig::Aac(aac) => {
            out.0.push(AAC);
            out.bytes(aac.audio_specific_config());
        }
    }
}

fn read_codec(reader: &mut Reader<'_>) -> Result<CodecConfig, IndexFileError> {
    let [codec] = reader.array()?;
    let config = Bytes::copy_from_slice(reader.bytes()?);
    match codec {
        AVC => {
            let colour = match reader.array()? {
                [0] => None,
                _ => Some(Colour {
                    primaries: u16::from_le_bytes(reader.array()?),
                    transfer: u16::from_le_bytes(reader.array()?),
                    matrix: u16::from_le_bytes(reader.array()?),
                    full_range: reader.array()? == [1],
                }),
            };
            let aspect = PixelAspect {
                horizontal: reader.u32()?,
                vertical: reader.u32()?,
            };
            AvcConfig::parse(config, colour, Some(aspect)).map(CodecConfig::Avc)
        }
        AAC => AacConfig::parse(config).map(CodecConfig::Aac),
        _ => return Err(IndexFileError::Content("an unknown codec")),
    }
    .map_err(|_| IndexFileError::Content("a decoder configuration"))
}

fn read_track(reader: &mut Reader<'_>, file: &Bytes) -> Result<Track, IndexFileError> {
    let track_id = reader.u32()?;
    let timescale =
        Timescale::new(reader.u32()?).ok_or(IndexFileError::Content("a timescale of 0"))?;
    let edit = Edit {
        skip: reader.i64()?,
        delay: reader.i64()?,
    };
    let mut matrix = [0; 9];
    for value in &mut matrix {
        *value = i32::from_le_bytes(reader.array()?);
    }
    let language = Some(reader.text()?).filter(|language| !language.is_empty());
    let name = reader.text()?;
    let codec = read_codec(reader)?;
    let samples = read_samples(reader, file)?;
    Ok(Track {
        track_id,
        codec,
        timescale,
        language,
        name,
        matrix,
        edit,
        samples,
    })
}

fn read_samples(reader: &mut Reader<'_>, file: &Bytes) -> Result<Samples, IndexFileError> {
    let count = reader.u32()?;
    let duration = reader.u64()?;
    let composition_end = reader.i64()?;
    let all_sync = reader.array()? == [1];
    let sizes = reader.column(file, 8)?;
    let run_samples = reader.column(file, 4)?;
    let run_offsets = reader.column(file, 8)?;
    let time_samples = reader.column(file, 4)?;
    let time_starts = reader.column(file, 8)?;
    let time_deltas = reader.column(file, 4)?;
    let compositions = reader.column(file, 4)?;
    let syncs = reader.column(file, 4)?;
    let dependencies = reader.column(file, 1)?;
    // Columns that belong together have one length, so that a lookup finds in all what it found in one.
    let n = count as usize;
    let agree = count > 0
        && sizes.len() / 8 == n + 1
        && !run_samples.is_empty()
        && run_samples.len() / 4 == run_offsets.len() / 8
        && !time_samples.is_empty()
        && time_samples.len() / 4 == time_starts.len() / 8
        && time_samples.len() == time_deltas.len()
        && (compositions.is_empty() || compositions.len() / 4 == n)
        && (all_sync || !syncs.is_empty())
        && (dependencies.is_empty() || dependencies.len() == n);
    if !agree {
        return Err(IndexFileError::Content("columns of different lengths"));
    }
    Ok(Samples {
        count,
        duration,
        composition_end,
        sizes: U64s::new(sizes),
        run_samples: U32s::new(run_samples),
        run_offsets: U64s::new(run_offsets),
        time_samples: U32s::new(time_samples),
        time_starts: U64s::new(time_starts),
        time_deltas: U32s::new(time_deltas),
        compositions: U32s::new(compositions),
        syncs: U32s::new(syncs),
        all_sync,
        dependencies,
    })
}

/// CRC-32 (IEEE 802.3) of a file of the cache, with the four bytes at `at`, where it stands, left out. It finds what a
/// disk or a power cut damaged, ten times as fast as a digest would: a title's first viewer waits for it.
pub(super) fn checksum(file: &[u8], at: usize) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file[..at]);
    crc.update(&file[at + 4..]);
    crc.finalize().to_le_bytes()
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).expect("parts of an index come from a moov of at most 64 MiB"));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], IndexFileError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(IndexFileError::Content("the description ends early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexFileError> {
        self.take(N)?
            .try_into()
            .map_err(|_| IndexFileError::Content("the description ends early"))
    }

    fn u32(&mut self) -> Result<u32, IndexFileError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, IndexFileError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, IndexFileError> {
        self.array().map(i64::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], IndexFileError> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn text(&mut self) -> Result<String, IndexFileError> {
        let text = str::from_utf8(self.bytes()?);
        text.map(str::to_owned)
            .map_err(|_| IndexFileError::Content("a text is not UTF-8"))
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, IndexFileError>,
    ) -> Result<Vec<T>, IndexFileError> {
        let count = self.u32()?;
        if count as usize > MAX_TRACKS {
            return Err(IndexFileError::Content("too many tracks"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// A column of numbers of `width` bytes.
    fn column(&mut self, file: &Bytes, width: usize) -> Result<Bytes, IndexFileError> {
        let offset = self.u64()?;
        let numbers = self.u32()?;
        let range = usize::try_from(offset).ok().and_then(|start| {
            let end = start.checked_add((numbers as usize).checked_mul(width)?)?;
            (end <= file.len()).then_some(start..end)
        });
        range
            .map(|range| file.slice(range))
            .ok_or(IndexFileError::Content("a column past the end"))
    }
}
