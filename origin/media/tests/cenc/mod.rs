//! A reader of what was written, independent of the writer: boxes, and decryption of a fragment by its own `senc`
//! and its init's `tenc`, through nothing but the AES block cipher (ISO/IEC 23001-7 9 and 10).

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};

/// A box: its type and body.
#[derive(Clone, Copy, Debug)]
pub struct Box<'a> {
    pub name: [u8; 4],
    /// Where the box begins in the bytes it was read from.
    pub at: usize,
    pub body: &'a [u8],
}

/// The boxes that `bytes` are.
pub fn boxes(bytes: &[u8]) -> Vec<Box<'_>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let size = u32_at(bytes, at) as usize;
        assert!(
            size >= 8 && at + size <= bytes.len(),
            "box of {size} bytes at {at} of {}",
            bytes.len()
        );
        out.push(Box {
            name: bytes[at + 4..at + 8].try_into().unwrap(),
            at,
            body: &bytes[at + 8..at + size],
        });
        at += size;
    }
    out
}

/// The body of the box at `path`; `stsd` and sample entries are stepped over by the number of bytes named in the path.
pub fn find<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    let Some((first, rest)) = path.split_first() else {
        return Some(bytes);
    };
    let found = boxes(bytes).into_iter().find(|b| b.name == **first)?;
    let own = match &found.name {
        b"stsd" => 8,
        b"avc1" | b"encv" => 78,
        b"mp4a" | b"enca" => 28,
        _ => 0,
    };
    find(
        if rest.is_empty() {
            found.body
        } else {
            &found.body[own..]
        },
        rest,
    )
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What `tenc` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenc {
    pub scheme: [u8; 4],
    pub crypt: usize,
    pub skip: usize,
    pub iv_size: usize,
    pub key_id: [u8; 16],
    pub constant_iv: Vec<u8>,
}

/// The protection of the one track of an init segment, if it has any.
pub fn tenc(init: &[u8]) -> Option<Tenc> {
    let stsd: [&[u8; 4]; 6] = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"];
    let entry: &[u8; 4] = if find(init, &[&stsd[..], &[b"encv"]].concat()).is_some() {
        b"encv"
    } else {
        b"enca"
    };
    let sinf = find(init, &[&stsd[..], &[entry, b"sinf"]].concat())?;
    let schm = find(sinf, &[b"schm"]).unwrap();
    let tenc = find(sinf, &[b"schi", b"tenc"]).unwrap();
    let (blocks, iv_size) = (tenc[5], usize::from(tenc[7]));
    assert_eq!(tenc[6], 1, "default_isProtected");
    assert!(tenc[0] == 1 || blocks == 0, "a pattern needs version 1");
    let constant_iv = if iv_size == 0 {
        tenc[25..25 + usize::from(tenc[24])].to_vec()
    } else {
        Vec::new()
    };
    Some(Tenc {
        scheme: schm[4..8].try_into().unwrap(),
        crypt: usize::from(blocks >> 4),
        skip: usize::from(blocks & 15),
        iv_size,
        key_id: tenc[8..24].try_into().unwrap(),
        constant_iv,
    })
}

/// A sample of a fragment as its boxes describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub data: Vec<u8>,
    pub duration: u32,
    pub flags: u32,
    pub composition_offset: i64,
}

/// A parsed fragment.
pub struct Fragment {
    pub sequence: u32,
    pub decode_time: u64,
    pub samples: Vec<Sample>,
    pub ivs: Vec<Vec<u8>>,
    pub subsamples: Vec<Vec<(usize, usize)>>,
}

/// Reads `styp moof mdat`, checks what must agree, and decrypts with `key` where `tenc` is given.
pub fn open(segment: &[u8], tenc: Option<&Tenc>, key: &[u8; 16]) -> Fragment {
    let top = boxes(segment);
    let names: Vec<_> = top.iter().map(|b| b.name).collect();
    assert_eq!(names, [*b"styp", *b"moof", *b"mdat"]);
    let (moof, mdat) = (top[1], top[2]);
    let children = boxes(moof.body);
    assert_eq!(
        children.iter().map(|b| b.name).collect::<Vec<_>>(),
        [*b"mfhd", *b"traf"],
        "one traf"
    );
    let traf = children[1].body;
    let runs = boxes(traf)
        .into_iter()
        .filter(|b| &b.name == b"trun")
        .count();
    assert_eq!(runs, 1, "one trun");

    let tfhd = find(traf, &[b"tfhd"]).unwrap();
    let tfhd_flags = u32_at(tfhd, 0) & 0xff_ffff;
    assert_ne!(tfhd_flags & 0x02_0000, 0, "default-base-is-moof");
    let mut at = 8;
    let mut default = |flag: u32| {
        (tfhd_flags & flag != 0).then(|| {
            at += 4;
            u32_at(tfhd, at - 4)
        })
    };
    let (duration, flags) = (default(0x08), default(0x20));
    let tfdt = find(traf, &[b"tfdt"]).unwrap();
    assert_eq!(tfdt[0], 1, "tfdt version 1");

    let trun = find(traf, &[b"trun"]).unwrap();
    let (version, trun_flags, count) = (trun[0], u32_at(trun, 0) & 0xff_ffff, u32_at(trun, 4));
    let data_offset = u32_at(trun, 8) as usize;
    assert_eq!(
        moof.at + data_offset,
        mdat.at + 8,
        "data_offset counts from moof"
    );
    let mut at = 12;
    let mut next = |present: bool| {
        present.then(|| {
            at += 4;
            u32_at(trun, at - 4)
        })
    };
    let first_flags = next(trun_flags & 0x04 != 0);
    let mut data = mdat.body;
    let mut samples = Vec::new();
    for n in 0..count {
        let duration = next(trun_flags & 0x100 != 0)
            .or(duration)
            .expect("a duration");
        let size = next(trun_flags & 0x200 != 0).expect("a size") as usize;
        let own_flags = next(trun_flags & 0x400 != 0);
        let flags = own_flags
            .or(first_flags.filter(|_| n == 0))
            .or(flags)
            .expect("flags");
        let offset = next(trun_flags & 0x800 != 0).unwrap_or(0);
        let composition_offset = if version == 0 {
            i64::from(offset)
        } else {
            i64::from(offset.cast_signed())
        };
        let (sample, rest) = data.split_at(size);
        data = rest;
        samples.push(Sample {
            data: sample.to_vec(),
            duration,
            flags,
            composition_offset,
        });
    }
    assert!(data.is_empty(), "mdat holds the samples and nothing else");

    let (mut ivs, mut subsamples) = (Vec::new(), Vec::new());
    if let Some(senc) = find(traf, &[b"senc"]) {
        let tenc = tenc.expect("senc in a clear track");
        let place = boxes(traf)
            .into_iter()
            .find(|b| &b.name == b"senc")
            .unwrap()
            .at;
        let traf_at = boxes(moof.body)[1].at;
        let saio = find(traf, &[b"saio"]).unwrap();
        assert_eq!(u32_at(saio, 4), 1);
        assert_eq!(
            u32_at(saio, 8) as usize,
            8 + traf_at + 8 + place + 16,
            "saio points at the first entry"
        );
        let saiz = find(traf, &[b"saiz"]).unwrap();
        assert_eq!(u32_at(saiz, 5), count);
        assert_eq!(u32_at(senc, 4), count);
        let with_subsamples = senc[3] & 2 != 0;
        let mut at = 8;
        for n in 0..count as usize {
            let begin = at;
            ivs.push(senc[at..at + tenc.iv_size].to_vec());
            at += tenc.iv_size;
            if with_subsamples {
                let entries = usize::from(u16::from_be_bytes([senc[at], senc[at + 1]]));
                at += 2;
                subsamples.push(
                    (0..entries)
                        .map(|_| {
                            let clear = usize::from(u16::from_be_bytes([senc[at], senc[at + 1]]));
                            at += 6;
                            (clear, u32_at(senc, at - 4) as usize)
                        })
                        .collect(),
                );
            }
            let size = if saiz[4] == 0 { saiz[9 + n] } else { saiz[4] };
            assert_eq!(usize::from(size), at - begin, "saiz of sample {n}");
        }
        assert_eq!(at, senc.len());
    }
    if let Some(tenc) = tenc {
        for (n, sample) in samples.iter_mut().enumerate() {
            decrypt(&mut sample.data, tenc, ivs.get(n), subsamples.get(n), key);
        }
    }
    Fragment {
        sequence: u32_at(find(moof.body, &[b"mfhd"]).unwrap(), 4),
        decode_time: u64_at(tfdt, 4),
        samples,
        ivs,
        subsamples,
    }
}

fn decrypt(
    data: &mut [u8],
    tenc: &Tenc,
    iv: Option<&Vec<u8>>,
    subsamples: Option<&Vec<(usize, usize)>>,
    key: &[u8; 16],
) {
    let whole = vec![(0, data.len())];
    let subsamples = subsamples.unwrap_or(&whole);
    assert_eq!(
        subsamples.iter().map(|(c, p)| c + p).sum::<usize>(),
        data.len(),
        "every byte is covered"
    );
    let aes = Aes128::new(key.into());
    match &tenc.scheme {
        b"cenc" => {
            let iv: [u8; 8] = iv.expect("an IV per sample")[..].try_into().unwrap();
            let mut position = 0_u64;
            let mut at = 0;
            for (clear, protected) in subsamples {
                at += clear;
                for byte in &mut data[at..at + protected] {
                    let mut block: [u8; 16] = [0; 16];
                    block[..8].copy_from_slice(&iv);
                    block[8..].copy_from_slice(&(position / 16).to_be_bytes());
                    let mut block = block.into();
                    aes.encrypt_block(&mut block);
                    *byte ^= block[usize::try_from(position % 16).unwrap()];
                    position += 1;
                }
                at += protected;
            }
        }
        b"cbcs" => {
            let stride = if tenc.crypt == 0 {
                1
            } else {
                tenc.crypt + tenc.skip
            };
            let run = tenc.crypt.max(1);
            let mut at = 0;
            for (clear, protected) in subsamples {
                at += clear;
                let mut previous: [u8; 16] = tenc.constant_iv[..].try_into().unwrap();
                for n in 0..protected / 16 {
                    if n % stride < run {
                        let place = &mut data[at + 16 * n..at + 16 * n + 16];
                        let cipher: [u8; 16] = (*place).try_into().unwrap();
                        let mut block = cipher.into();
                        aes.decrypt_block(&mut block);
                        place
                            .iter_mut()
                            .zip(block.iter().zip(previous))
                            .for_each(|(p, (b, i))| *p = b ^ i);
                        previous = cipher;
                    }
                }
                at += protected;
            }
        }
        other => panic!("scheme {}", other.escape_ascii()),
    }
}
