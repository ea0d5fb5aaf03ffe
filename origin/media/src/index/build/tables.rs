//! The sample tables of one track, from boxes to columns.

use super::Source;
use crate::bmff::{
    BoxRef, ChunkOffsets, Ctts, SampleSizes, Sdtp, Stsc, Stss, Stts, only, required,
};
use crate::codec::Media;
use crate::error::ParseError;
use crate::index::file::{Column, Columns};
use crate::index::{MAX_DURATION_SECONDS, MAX_SAMPLES};
use crate::time::Timescale;

impl Source {
    /// Reads the tables of `stbl`, or `None` where it has no samples.
    pub(super) fn read_tables(
        &mut self,
        stbl: &BoxRef<'_>,
        tables: &[BoxRef<'_>],
        timescale: Timescale,
        media: Media,
    ) -> Result<Option<Columns>, ParseError> {
        let (sizes_box, sizes) = read_sizes(stbl, tables)?;
        let Some(count) = self.admit(sizes_box, &sizes)? else {
            return Ok(None);
        };
        let mut columns = Columns {
            count,
            ..Columns::default()
        };
        columns.sizes = prefix_sums(&sizes, count);
        self.read_chunks(stbl, tables, &mut columns)?;
        read_times(required(stbl, tables, b"stts")?, timescale, &mut columns)?;
        if let Some(ctts) = only(tables, b"ctts")? {
            read_compositions(ctts, &mut columns)?;
        }
        match only(tables, b"stss")? {
            // Every frame of AAC can be decoded by itself, whatever a stray table says.
            Some(stss) if media == Media::Video => read_syncs(stss, &mut columns)?,
            Some(_) | None => columns.all_sync = true,
        }
        if let Some(sdtp) = only(tables, b"sdtp")? {
            let bytes = Sdtp::parse(sdtp)?.0;
            let bytes = bytes.get(..count as usize).ok_or_else(|| {
                sdtp.malformed(format!(
                    "{} entries present for {count} samples",
                    bytes.len()
                ))
            })?;
            columns.dependencies = Column::of_bytes(bytes);
        }
        measure(stbl, &mut columns)?;
        Ok(Some(columns))
    }

    /// The number of samples, once it is known that the file could hold them; `None` for none.
    fn admit(
        &mut self,
        sizes_box: &BoxRef<'_>,
        sizes: &SampleSizes<'_>,
    ) -> Result<Option<u32>, ParseError> {
        let count = u32::try_from(sizes.count())
            .ok()
            .filter(|count| *count <= self.samples_left);
        let Some(count) = count else {
            return Err(ParseError::limit(
                sizes_box.place.clone(),
                format!(
                    "more than {MAX_SAMPLES} samples in all tracks; a week of audio has 28 million"
                ),
            ));
        };
        self.samples_left -= count;
        if let SampleSizes::Constant { size, count } = sizes {
            let bytes = u64::from(*size) * u64::from(*count);
            if bytes > self.file_len {
                let reason = format!(
                    "{count} samples of {size} bytes in a file of {}: not complete yet",
                    self.file_len
                );
                return Err(ParseError::incomplete(sizes_box.place.clone(), reason));
            }
        }
        Ok((count > 0).then_some(count))
    }

    /// Reads `stsc` and the chunk offsets into runs of samples that follow each other in the file.
    fn read_chunks(
        &self,
        stbl: &BoxRef<'_>,
        tables: &[BoxRef<'_>],
        columns: &mut Columns,
    ) -> Result<(), ParseError> {
        let stsc_box = required(stbl, tables, b"stsc")?;
        let runs: Vec<_> = Stsc::parse(stsc_box)?.runs().collect();
        let (offsets_box, offsets) = match (only(tables, b"stco")?, only(tables, b"co64")?) {
            (Some(stco), None) => (stco, ChunkOffsets::parse_stco(stco)?),
            (None, Some(co64)) => (co64, ChunkOffsets::parse_co64(co64)?),
            (Some(_), Some(co64)) => {
                return Err(co64.malformed("beside stco: one of them is allowed"));
            }
            (None, None) => return Err(stbl.malformed("neither stco nor co64 inside")),
        };
        let chunks = offsets.count();
        let mut sample = 0_u32;
        let mut end_of_last = None;
        for (at, run) in runs.iter().enumerate() {
            let first = usize::try_from(run.first_chunk).unwrap_or(usize::MAX);
            let next = runs.get(at + 1).map_or(chunks.saturating_add(1), |next| {
                usize::try_from(next.first_chunk).unwrap_or(usize::MAX)
            });
            if at == 0 && first != 1 {
                return Err(
                    stsc_box.malformed(format!("the first entry names chunk {first}, not 1"))
                );
            }
            if next <= first || next > chunks.saturating_add(1) {
                return Err(stsc_box.malformed(format!(
                    "entry {at} covers chunks {first} to {}, of {chunks}",
                    next.saturating_sub(1)
                )));
            }
            if run.sample_description_index != 1 {
                return Err(stsc_box.malformed(format!(
                    "entry {at} names sample entry {}, of 1",
                    run.sample_description_index
                )));
            }
            for chunk in first - 1..next - 1 {
                let end = sample
                    .checked_add(run.samples_per_chunk)
                    .filter(|end| *end <= columns.count);
                let Some(end) = end.filter(|end| *end > sample) else {
                    return Err(stsc_box.malformed(format!(
                        "chunk {} holds {} samples after the first {sample}, of {}",
                        chunk + 1,
                        run.samples_per_chunk,
                        columns.count
                    )));
                };
                let bytes = columns.sizes.get(end as usize) - columns.sizes.get(sample as usize);
                let offset = offsets
                    .offset(chunk)
                    .ok_or_else(|| offsets_box.malformed(format!("no chunk {}", chunk + 1)))?;
                let end_offset = self.check_chunk(offsets_box, chunk, offset, bytes)?;
                if end_of_last != Some(offset) {
                    columns.run_samples.push(sample);
                    columns.run_offsets.push(offset);
                }
                end_of_last = Some(end_offset);
                sample = end;
            }
        }
        if sample != columns.count {
            return Err(stsc_box.malformed(format!(
                "the chunks hold {sample} samples, of {}",
                columns.count
            )));
        }
        Ok(())
    }

    /// Where a chunk ends, if it lies in the file and outside `moov`.
    fn check_chunk(
        &self,
        offsets_box: &BoxRef<'_>,
        chunk: usize,
        offset: u64,
        bytes: u64,
    ) -> Result<u64, ParseError> {
        let end = offset
            .checked_add(bytes)
            .ok_or_else(|| offsets_box.malformed(format!("chunk {} ends past 2^64", chunk + 1)))?;
        if end > self.file_len {
            return Err(ParseError::incomplete(
                offsets_box.place.clone(),
                format!(
                    "chunk {} ends at {end:#x}, the file at {:#x}: not complete yet",
                    chunk + 1,
                    self.file_len
                ),
            ));
        }
        if offset < self.moov.end && end > self.moov.start {
            return Err(offsets_box.malformed(format!("chunk {} lies in moov", chunk + 1)));
        }
        Ok(end)
    }
}

fn read_sizes<'b, 'a>(
    stbl: &BoxRef<'a>,
    tables: &'b [BoxRef<'a>],
) -> Result<(&'b BoxRef<'a>, SampleSizes<'a>), ParseError> {
    match (only(tables, b"stsz")?, only(tables, b"stz2")?) {
        (Some(stsz), None) => Ok((stsz, SampleSizes::parse_stsz(stsz)?)),
        (None, Some(stz2)) => Ok((stz2, SampleSizes::parse_stz2(stz2)?)),
        (Some(_), Some(stz2)) => Err(stz2.malformed("beside stsz: one of them is allowed")),
        (None, None) => Err(stbl.malformed("neither stsz nor stz2 inside")),
    }
}

fn prefix_sums(sizes: &SampleSizes<'_>, count: u32) -> Column<8> {
    let mut column = Column::<8>::with_capacity(count as usize + 1);
    let mut sum = 0_u64;
    column.push(sum);
    for n in 0..count as usize {
        // 2^25 sizes of 32 bits: below 2^57.
        sum += u64::from(sizes.size(n));
        column.push(sum);
    }
    column
}

fn read_times(
    stts: &BoxRef<'_>,
    timescale: Timescale,
    columns: &mut Columns,
) -> Result<(), ParseError> {
    let longest = u64::from(MAX_DURATION_SECONDS) * u64::from(timescale.get());
    let mut sample = 0_u32;
    let mut time = 0_u64;
    let mut last_delta = None;
    for (count, delta) in Stts::parse(stts)?.runs() {
        if count == 0 {
            continue;
        }
        if delta > i32::MAX.cast_unsigned() {
            return Err(stts.malformed(format!(
                "sample {sample} lasts {} ticks",
                delta.cast_signed()
            )));
        }
        if last_delta != Some(delta) {
            columns.time_samples.push(sample);
            columns.time_starts.push(time);
            columns.time_deltas.push(delta);
            last_delta = Some(delta);
        }
        let end = sample
            .checked_add(count)
            .filter(|end| *end <= columns.count);
        sample = end.ok_or_else(|| {
            let reason = format!("{count} more samples after {sample}, of {}", columns.count);
            stts.malformed(reason)
        })?;
        // A count and a delta of 32 bits each, and a sum held below 2^52.
        time += u64::from(count) * u64::from(delta);
        if time > longest {
            return Err(ParseError::limit(
                stts.place.clone(),
                format!("samples last more than {MAX_DURATION_SECONDS} seconds"),
            ));
        }
    }
    if sample != columns.count {
        return Err(stts.malformed(format!("times for {sample} samples, of {}", columns.count)));
    }
    if time == 0 {
        return Err(stts.malformed("all samples together last 0 ticks"));
    }
    columns.duration = time;
    Ok(())
}

fn read_compositions(ctts: &BoxRef<'_>, columns: &mut Columns) -> Result<(), ParseError> {
    let table = Ctts::parse(ctts)?;
    let mut sample = 0_u32;
    for (count, _) in table.runs() {
        sample = sample
            .checked_add(count)
            .filter(|end| *end <= columns.count)
            .ok_or_else(|| {
                let reason = format!("{count} more samples after {sample}, of {}", columns.count);
                ctts.malformed(reason)
            })?;
    }
    if sample != columns.count {
        return Err(ctts.malformed(format!(
            "offsets for {sample} samples, of {}",
            columns.count
        )));
    }
    if table
        .runs()
        .all(|(count, offset)| count == 0 || offset == 0)
    {
        return Ok(());
    }
    columns.compositions = Column::with_capacity(columns.count as usize);
    for (count, offset) in table.runs() {
        for _ in 0..count {
            columns.compositions.push(offset.cast_unsigned());
        }
    }
    Ok(())
}

fn read_syncs(stss: &BoxRef<'_>, columns: &mut Columns) -> Result<(), ParseError> {
    let mut last = 0;
    for number in Stss::parse(stss)?.numbers() {
        if number <= last || number > columns.count {
            return Err(stss.malformed(format!(
                "sync sample {number} after {last}, of {} samples counting from 1",
                columns.count
            )));
        }
        last = number;
        columns.syncs.push(number - 1);
    }
    match columns.syncs.len() {
        0 => Err(stss.unsupported("no sync sample: decoding can begin nowhere")),
        all if all == columns.count as usize => {
            columns.syncs = Column::default();
            columns.all_sync = true;
            Ok(())
        }
        _ if columns.syncs.get(0) != 0 => {
            Err(stss
                .unsupported("the first sample is no sync sample: its pictures cannot be decoded"))
        }
        _ => Ok(()),
    }
}

/// Finds the latest end, and checks that sync samples are shown in the order in which they are decoded: that
/// is what makes them places to begin a segment at, and lets them be searched by time.
fn measure(stbl: &BoxRef<'_>, columns: &mut Columns) -> Result<(), ParseError> {
    if columns.all_sync && columns.compositions.len() == 0 {
        columns.composition_end = columns.duration.cast_signed();
        return Ok(());
    }
    let mut time = 0_i64;
    let mut run = 0;
    let mut sync = 0;
    let mut latest_sync = i64::MIN;
    let mut composition_end = i64::MIN;
    for n in 0..columns.count {
        if run + 1 < columns.time_samples.len() && columns.time_samples.get(run + 1) == n {
            run += 1;
        }
        let composed = time + i64::from(columns.compositions.get(n as usize).cast_signed());
        let delta = i64::from(columns.time_deltas.get(run));
        composition_end = composition_end.max(composed + delta);
        let is_sync =
            columns.all_sync || columns.syncs.len() > sync && columns.syncs.get(sync) == n;
        if is_sync {
            sync += 1;
            if composed < latest_sync {
                return Err(stbl.unsupported(format!(
                    "sync sample {n} is shown before the sync sample that is decoded before it"
                )));
            }
            latest_sync = composed;
        }
        time += delta;
    }
    columns.composition_end = composition_end;
    Ok(())
}
