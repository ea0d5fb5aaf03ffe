//! A CMAF segment: where each sample lies in it and which of its bytes `senc` calls protected.

use std::ops::Range;

use super::{Atom, Fields, Header, Malformed};

/// Samples that one segment may hold; a 10 s segment of 240 frames a second has 2,400.
const SAMPLE_LIMIT: u32 = 100_000;

/// One sample of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its bytes in the segment.
    pub bytes: Range<usize>,
    /// Its IV from `senc`, zero-padded to 16 bytes; `None` where the track's constant IV counts.
    pub iv: Option<[u8; 16]>,
    /// Clear and protected byte counts in turn; `None` protects the sample whole.
    pub subsamples: Option<Vec<(u16, u32)>>,
}

/// The samples of one segment, which may be several `moof` long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Decode time of the first sample in ticks of the track (`tfdt`).
    pub base_decode_time: u64,
    /// Every sample, in order.
    pub samples: Vec<Sample>,
}

impl Fragment {
    /// Reads a segment of one track, whose header is `header`.
    ///
    /// # Errors
    /// Where boxes are missing, cut off, or disagree about how many samples or bytes there are.
    pub fn read(header: &Header, file: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new("segment", file);
        let mut base_decode_time = None;
        let mut samples = Vec::new();
        while let Some(atom) = fields.atom()? {
            if &atom.kind == b"moof" {
                let time = read_moof(header, &atom, file.len(), &mut samples)?;
                base_decode_time.get_or_insert(time);
            }
        }
        let base_decode_time = base_decode_time.ok_or(fields.fault("holds no moof"))?;
        Ok(Self {
            base_decode_time,
            samples,
        })
    }
}

/// Adds the samples of one `moof` and returns its decode time.
fn read_moof(
    header: &Header,
    moof: &Atom<'_>,
    file_len: usize,
    samples: &mut Vec<Sample>,
) -> Result<u64, Malformed> {
    let traf = moof.body.child(b"traf", "moof/traf")?;
    let (base, default_size) = read_tfhd(traf, moof.start, header.default_sample_size)?;
    let first = samples.len();
    let mut children = traf;
    let mut next = base;
    while let Some(atom) = children.atom()? {
        if &atom.kind == b"trun" {
            let trun = atom.body.named("moof/traf/trun");
            next = read_trun(trun, base, next, default_size, samples)?;
        }
    }
    if samples[first..]
        .iter()
        .any(|sample| sample.bytes.end > file_len)
    {
        return Err(traf.fault("samples reach beyond the segment"));
    }
    if let Some(protection) = &header.protection {
        match traf.find(b"senc", "moof/traf/senc")? {
            Some(senc) => read_senc(senc, protection.per_sample_iv_size, &mut samples[first..])?,
            None if protection.constant_iv.is_some() => {}
            None => return Err(traf.fault("no senc, yet the track has an IV for each sample")),
        }
    }
    read_tfdt(traf)
}

/// Base of the data offsets, and the size of samples that state none (ISO/IEC 14496-12 8.8.7).
fn read_tfhd(
    traf: Fields<'_>,
    moof_start: usize,
    trex_size: usize,
) -> Result<(usize, usize), Malformed> {
    let mut tfhd = traf.child(b"tfhd", "moof/traf/tfhd")?;
    let (_, flags) = tfhd.full()?;
    tfhd.u32()?; // track
    let mut base = moof_start;
    if flags & 0x1 != 0 {
        base = usize::try_from(tfhd.u64()?).map_err(|_| tfhd.fault("offset beyond memory"))?;
    }
    for flag in [0x2, 0x8] {
        if flags & flag != 0 {
            tfhd.u32()?; // description index, duration
        }
    }
    let size = if flags & 0x10 != 0 {
        tfhd.size()?
    } else {
        trex_size
    };
    Ok((base, size))
}

fn read_tfdt(traf: Fields<'_>) -> Result<u64, Malformed> {
    let mut tfdt = traf.child(b"tfdt", "moof/traf/tfdt")?;
    match tfdt.full()? {
        (0, _) => Ok(u64::from(tfdt.u32()?)),
        _ => tfdt.u64(),
    }
}

/// Adds the samples of one run and returns where the next would begin (ISO/IEC 14496-12 8.8.8).
fn read_trun(
    mut trun: Fields<'_>,
    base: usize,
    next: usize,
    default_size: usize,
    samples: &mut Vec<Sample>,
) -> Result<usize, Malformed> {
    let (_, flags) = trun.full()?;
    let count = trun.u32()?;
    if count > SAMPLE_LIMIT {
        return Err(trun.fault("more samples than a segment may hold"));
    }
    let mut at = next;
    if flags & 0x1 != 0 {
        let offset = i32::from_be_bytes(trun.array()?);
        let offset = isize::try_from(offset).map_err(|_| trun.fault("offset beyond memory"))?;
        at = base
            .checked_add_signed(offset)
            .ok_or(trun.fault("data offset before the file"))?;
    }
    if flags & 0x4 != 0 {
        trun.u32()?; // flags of the first sample
    }
    for _ in 0..count {
        if flags & 0x100 != 0 {
            trun.u32()?; // duration
        }
        let size = if flags & 0x200 != 0 {
            trun.size()?
        } else {
            default_size
        };
        for flag in [0x400, 0x800] {
            if flags & flag != 0 {
                trun.u32()?; // flags, composition offset
            }
        }
        let end = at
            .checked_add(size)
            .ok_or(trun.fault("sample end overflows"))?;
        samples.push(Sample {
            bytes: at..end,
            iv: None,
            subsamples: None,
        });
        at = end;
    }
    Ok(at)
}

/// Gives each sample its IV and subsamples (ISO/IEC 23001-7 7.2).
fn read_senc(mut senc: Fields<'_>, iv_size: u8, samples: &mut [Sample]) -> Result<(), Malformed> {
    let (_, flags) = senc.full()?;
    if senc.size()? != samples.len() {
        return Err(senc.fault("sample count differs from that of trun"));
    }
    for sample in samples {
        if iv_size > 0 {
            let mut iv = [0; 16];
            let bytes = senc.take(usize::from(iv_size))?;
            iv[..bytes.len()].copy_from_slice(bytes);
            sample.iv = Some(iv);
        }
        if flags & 0x2 != 0 {
            let count = senc.u16()?;
            let mut subsamples = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                subsamples.push((senc.u16()?, senc.u32()?));
            }
            sample.subsamples = Some(subsamples);
        }
    }
    if !senc.is_empty() {
        return Err(senc.fault("bytes follow the last sample"));
    }
    Ok(())
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "boxes for tests are small")]
pub mod testing {
    use crate::mp4::testing::boxed;

    /// A segment whose samples have these bytes; `senc` is a whole payload, version and flags included.
    pub fn segment(samples: &[&[u8]], senc: Option<&[u8]>) -> Vec<u8> {
        let tfhd = boxed(b"tfhd", &[&[0, 2, 0, 0], &[0, 0, 0, 1]]);
        let tfdt = boxed(b"tfdt", &[&[1, 0, 0, 0], &9000_u64.to_be_bytes()]);
        let senc = senc.map_or_else(Vec::new, |payload| boxed(b"senc", &[payload]));
        let count = u32::try_from(samples.len()).unwrap();
        let sizes: Vec<u8> = samples
            .iter()
            .flat_map(|s| u32::try_from(s.len()).unwrap().to_be_bytes())
            .collect();
        let build = |offset: u32| {
            let trun = boxed(
                b"trun",
                &[
                    &[0, 0, 2, 1],
                    &count.to_be_bytes(),
                    &offset.to_be_bytes(),
                    &sizes,
                ],
            );
            boxed(b"moof", &[&boxed(b"traf", &[&tfhd, &tfdt, &trun, &senc])])
        };
        let offset = u32::try_from(build(0).len() + 8).unwrap();
        [
            boxed(b"styp", &[b"msdh"]),
            build(offset),
            boxed(b"mdat", samples),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mp4::{Protection, Scheme};

    fn header(per_sample_iv_size: u8, constant_iv: Option<[u8; 16]>) -> Header {
        let scheme = if constant_iv.is_some() {
            Scheme::Cbcs
        } else {
            Scheme::Cenc
        };
        let protection = Protection {
            scheme,
            scheme_offset: 0,
            kid: [0; 16],
            kid_offset: 0,
            per_sample_iv_size,
            constant_iv,
            pattern: (1, 9),
        };
        Header {
            protection: Some(protection),
            codec: *b"avc1",
            pssh: Vec::new(),
            default_sample_size: 0,
        }
    }

    #[test]
    fn finds_samples_ivs_and_subsamples() {
        let senc = [
            &[0, 0, 0, 2, 0, 0, 0, 2][..],
            &[1; 8],
            &[0, 1, 0, 5, 0, 0, 0, 16],
            &[2; 8],
            &[0, 1, 0, 2, 0, 0, 0, 0],
        ]
        .concat();
        let first = [0xaa; 21];
        let file = testing::segment(&[&first, b"zz"], Some(&senc));
        let fragment = Fragment::read(&header(8, None), &file).unwrap();
        assert_eq!(fragment.base_decode_time, 9000);
        let [a, b] = fragment.samples.as_slice() else {
            panic!("two samples")
        };
        assert_eq!(file[a.bytes.clone()], first);
        assert_eq!(&file[b.bytes.clone()], b"zz");
        assert_eq!(a.iv, Some([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(a.subsamples, Some(vec![(5, 16)]));
        assert_eq!(b.subsamples, Some(vec![(2, 0)]));
    }

    #[test]
    fn whole_sample_cbcs_needs_no_senc_but_cenc_does() {
        let file = testing::segment(&[b"sample"], None);
        let fragment = Fragment::read(&header(0, Some([0; 16])), &file).unwrap();
        assert_eq!(
            (&fragment.samples[0].iv, &fragment.samples[0].subsamples),
            (&None, &None)
        );
        let fault = Fragment::read(&header(8, None), &file).unwrap_err();
        assert_eq!(
            fault.reason,
            "no senc, yet the track has an IV for each sample"
        );
    }

    #[test]
    fn refuses_counts_that_disagree_and_a_cut_segment() {
        let senc = [0, 0, 0, 0, 0, 0, 0, 2];
        let file = testing::segment(&[b"one"], Some(&senc));
        let fault = Fragment::read(&header(0, Some([0; 16])), &file).unwrap_err();
        assert_eq!(fault.reason, "sample count differs from that of trun");

        // The mdat goes with its last byte, box size mended: only the run still claims it.
        let mut cut = testing::segment(&[b"one"], None);
        cut.truncate(cut.len() - 11);
        cut.extend(crate::mp4::testing::boxed(b"mdat", &[b"on"]));
        let fault = Fragment::read(&header(0, Some([0; 16])), &cut).unwrap_err();
        assert_eq!(fault.reason, "samples reach beyond the segment");
    }
}
