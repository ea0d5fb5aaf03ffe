//! A CMAF header (init segment): how the track is protected and what its fragments may leave out.

use super::{Fields, Malformed, Pssh};

/// Protection scheme of a track (ISO/IEC 23001-7 clause 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// AES-CTR over the protected ranges of each sample.
    Cenc,
    /// AES-CBC with a pattern over each protected range.
    Cbcs,
}

impl Scheme {
    /// The scheme with this four-letter code, as `schm` and the MPD spell it.
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "cenc" => Some(Self::Cenc),
            "cbcs" => Some(Self::Cbcs),
            _ => None,
        }
    }
}

/// What `schm` and `tenc` say about a protected track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// Scheme of every sample.
    pub scheme: Scheme,
    /// Offset of the scheme's four letters in the file (`schm`).
    pub scheme_offset: usize,
    /// Key id, in the order of its hyphenated text.
    pub kid: [u8; 16],
    /// Its offset in the file (`tenc`).
    pub kid_offset: usize,
    /// Bytes of IV that `senc` holds for each sample: 0, 8 or 16.
    pub per_sample_iv_size: u8,
    /// The IV of all samples where `per_sample_iv_size` is 0.
    pub constant_iv: Option<[u8; 16]>,
    /// Encrypted and clear blocks of the pattern; `(0, 0)` encrypts every whole block.
    pub pattern: (u8, u8),
}

/// Protection system headers of one file: each system has one, or one for each key.
const PSSH_LIMIT: usize = 256;

/// A CMAF header's say in how its fragments are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `None` for a clear track.
    pub protection: Option<Protection>,
    /// The four letters of the sample entry; of a protected one, those that it had before.
    pub codec: [u8; 4],
    /// The protection system headers, in their order.
    pub pssh: Vec<Pssh>,
    /// Sample size that `trex` gives to fragments that state none.
    pub default_sample_size: usize,
}

impl Header {
    /// Reads an init segment of one track.
    ///
    /// # Errors
    /// Where a box is missing or cut off, or where the protection is of no kind known here.
    pub fn read(file: &[u8]) -> Result<Self, Malformed> {
        let moov = Fields::new("init", file).child(b"moov", "moov")?;
        let mut stsd = moov
            .child(b"trak", "moov/trak")?
            .child(b"mdia", "moov/trak/mdia")?
            .child(b"minf", "moov/trak/mdia/minf")?
            .child(b"stbl", "moov/trak/mdia/minf/stbl")?
            .child(b"stsd", "moov/trak/mdia/minf/stbl/stsd")?;
        stsd.full()?;
        stsd.u32()?; // entry count: CMAF allows one
        let entry = stsd.atom()?.ok_or(stsd.fault("holds no sample entry"))?;
        let mut fields = entry.body.named("stsd/entry");
        // The fixed part of VisualSampleEntry and AudioSampleEntry (ISO/IEC 14496-12 12.1.3, 12.2.3).
        match &entry.kind {
            b"encv" => fields.take(78)?,
            b"enca" => fields.take(28)?,
            _ => &[],
        };
        let (protection, codec) = match &entry.kind {
            b"encv" | b"enca" => {
                let sinf = fields.child(b"sinf", "sinf")?;
                let codec = sinf.child(b"frma", "sinf/frma")?.array()?;
                (Some(Protection::read(sinf)?), codec)
            }
            clear => (None, *clear),
        };
        let mut pssh = Vec::new();
        let mut children = moov;
        while let Some(atom) = children.atom()? {
            if &atom.kind == b"pssh" {
                if pssh.len() == PSSH_LIMIT {
                    return Err(children.fault("more protection system headers than a title has"));
                }
                pssh.push(Pssh::fields(atom.body.named("moov/pssh"))?);
            }
        }
        let mut trex = moov
            .child(b"mvex", "moov/mvex")?
            .child(b"trex", "moov/mvex/trex")?;
        trex.take(16)?; // version and flags, track, description index, duration
        Ok(Self {
            protection,
            codec,
            pssh,
            default_sample_size: trex.size()?,
        })
    }
}

impl Protection {
    fn read(sinf: Fields<'_>) -> Result<Self, Malformed> {
        let mut schm = sinf.child(b"schm", "sinf/schm")?;
        schm.full()?;
        let scheme_offset = schm.offset;
        let scheme = match &schm.array()? {
            b"cenc" => Scheme::Cenc,
            b"cbcs" => Scheme::Cbcs,
            _ => return Err(schm.fault("scheme is neither cenc nor cbcs")),
        };
        let mut tenc = sinf
            .child(b"schi", "sinf/schi")?
            .child(b"tenc", "sinf/schi/tenc")?;
        let (version, _) = tenc.full()?;
        tenc.u8()?;
        let packed = tenc.u8()?;
        let pattern = if version == 0 {
            (0, 0)
        } else {
            (packed >> 4, packed & 0xf)
        };
        if tenc.u8()? != 1 {
            return Err(tenc.fault("an encrypted sample entry that is not protected by default"));
        }
        let per_sample_iv_size = tenc.u8()?;
        if !matches!(per_sample_iv_size, 0 | 8 | 16) {
            return Err(tenc.fault("IV size is not 0, 8 or 16"));
        }
        let kid_offset = tenc.offset;
        let kid = tenc.array()?;
        let constant_iv = match per_sample_iv_size {
            0 => Some(constant_iv(&mut tenc)?),
            _ => None,
        };
        Ok(Self {
            scheme,
            scheme_offset,
            kid,
            kid_offset,
            per_sample_iv_size,
            constant_iv,
            pattern,
        })
    }
}

fn constant_iv(tenc: &mut Fields<'_>) -> Result<[u8; 16], Malformed> {
    let mut iv = [0; 16];
    match tenc.u8()? {
        8 => iv[..8].copy_from_slice(tenc.take(8)?),
        16 => iv = tenc.array()?,
        _ => return Err(tenc.fault("constant IV size is not 8 or 16")),
    }
    Ok(iv)
}

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "boxes for tests are small")]
pub mod testing {
    use crate::mp4::testing::boxed;

    /// An init segment whose one sample entry is `entry`, with a `sinf` of `scheme` and `tenc` where given.
    pub fn header(entry: &[u8; 4], protection: Option<(&[u8; 4], &[u8])>) -> Vec<u8> {
        let fixed: &[u8] = if entry == b"encv" || entry == b"avc1" {
            &[0; 78]
        } else {
            &[0; 28]
        };
        let sinf = protection.map_or_else(Vec::new, |(scheme, tenc)| {
            let schm = boxed(b"schm", &[&[0; 4], scheme, &[0, 1, 0, 0]]);
            let schi = boxed(b"schi", &[&boxed(b"tenc", &[tenc])]);
            boxed(b"sinf", &[&boxed(b"frma", &[b"avc1"]), &schm, &schi])
        });
        let stsd = boxed(
            b"stsd",
            &[&[0, 0, 0, 0, 0, 0, 0, 1], &boxed(entry, &[fixed, &sinf])],
        );
        let minf = boxed(b"minf", &[&boxed(b"stbl", &[&stsd])]);
        let trak = boxed(b"trak", &[&boxed(b"mdia", &[&minf])]);
        let trex = boxed(
            b"trex",
            &[
                &[0; 4],
                &[0, 0, 0, 1],
                &[0, 0, 0, 1],
                &[0; 4],
                &[0, 0, 0, 5],
                &[0; 4],
            ],
        );
        let moov = boxed(b"moov", &[&trak, &boxed(b"mvex", &[&trex])]);
        [boxed(b"ftyp", &[b"cmfc"]), moov].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KID: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn reads_cbcs_with_its_pattern_and_constant_iv() {
        let tenc = [&[1, 0, 0, 0, 0, 0x19, 1, 0], &KID[..], &[16], &[9; 16]].concat();
        let header = Header::read(&testing::header(b"encv", Some((b"cbcs", &tenc)))).unwrap();
        let protection = header.protection.unwrap();
        assert_eq!(protection.scheme, Scheme::Cbcs);
        assert_eq!(protection.kid, KID);
        assert_eq!(protection.pattern, (1, 9));
        assert_eq!(protection.constant_iv, Some([9; 16]));
        assert_eq!(header.default_sample_size, 5);
    }

    #[test]
    fn reads_cenc_with_eight_byte_ivs() {
        let tenc = [&[0, 0, 0, 0, 0, 0, 1, 8], &KID[..]].concat();
        let header = Header::read(&testing::header(b"enca", Some((b"cenc", &tenc)))).unwrap();
        let protection = header.protection.unwrap();
        assert_eq!(
            (protection.scheme, protection.per_sample_iv_size),
            (Scheme::Cenc, 8)
        );
        assert_eq!((protection.pattern, protection.constant_iv), ((0, 0), None));
    }

    #[test]
    fn a_clear_track_has_no_protection() {
        let header = Header::read(&testing::header(b"avc1", None)).unwrap();
        assert_eq!(header.protection, None);
    }

    #[test]
    fn refuses_a_protected_entry_without_its_boxes() {
        let fault = Header::read(&testing::header(b"encv", None)).unwrap_err();
        assert_eq!((fault.path, fault.reason), ("sinf", "missing"));
    }

    #[test]
    fn refuses_an_unknown_scheme_and_iv_size() {
        let tenc = [&[0, 0, 0, 0, 0, 0, 1, 7], &KID[..]].concat();
        let other = Header::read(&testing::header(b"encv", Some((b"cens", &tenc)))).unwrap_err();
        assert_eq!(other.reason, "scheme is neither cenc nor cbcs");
        let size = Header::read(&testing::header(b"encv", Some((b"cenc", &tenc)))).unwrap_err();
        assert_eq!(size.reason, "IV size is not 0, 8 or 16");
    }
}
