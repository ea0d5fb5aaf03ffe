use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use keystore_types::{Generation, Label, SUBSAMPLE_RULE};
use ring::digest::{Context, SHA256};

use super::SourceIdentity;
use crate::error::PackageError;
use crate::layout;
use crate::presentation::{Presentation, Track};
use crate::protect::TrackKey;

/// Names files of a track under a pack: its init segment, or all its other segments.
///
/// Two files with one id and one file name are the same bytes; anything that changes a byte changes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaId(Digest);

/// The ids of a track. They are two, since an init segment names the keys of the whole title: a language that is
/// added renames every init segment, and no segment of a track whose own key it does not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MediaIds {
    /// Of `init.mp4`.
    pub init: MediaId,
    /// Of every segment.
    pub segments: MediaId,
}

impl MediaIds {
    /// The ids of `track` under `keys`.
    ///
    /// The id of the segments digests what decides their bytes and nothing else: the source's identity and generation
    /// number, which track of it, where segments begin, the key (id, IV, and the context that gives each sample its
    /// IV), the scheme and the writer. The track's header stands for the rest: codec, timescale, edits, language. No
    /// name of a title, pack, policy or file is in it. The id of the init segment digests that one and its bytes.
    ///
    /// # Errors
    /// `Internal` when the pack is protected and `keys` lacks the track's label.
    pub fn compute(
        presentation: &Presentation,
        track: &Track,
        keys: &BTreeMap<Label, TrackKey>,
    ) -> Result<Self, PackageError> {
        let source = &presentation.sources()[track.source()];
        let mut digest = Input::new("castellum media 1");
        digest.bytes(&presentation.pack().writer.to_be_bytes());
        digest.bytes(source.identity.as_bytes());
        digest.bytes(&source.generation_number.to_be_bytes());
        digest.bytes(&track.samples().track_id().to_be_bytes());
        digest.bytes(&layout::own_header(presentation, track, keys)?);
        for sample in track.timeline().first_samples() {
            digest.bytes(&sample.to_be_bytes());
        }
        digest.bytes(&track.timeline().end_sample().to_be_bytes());
        if let Some((scheme, key)) = presentation.protection(track, keys)? {
            digest.bytes(&scheme.four_cc());
            digest.bytes(&SUBSAMPLE_RULE.to_be_bytes());
            digest.bytes(key.key_id.as_bytes());
            digest.bytes(key.iv.as_bytes());
            digest.bytes(&track.rank().to_be_bytes());
            digest.bytes(&track.generation().sources);
            digest.bytes(&track.generation().number.to_be_bytes());
        }
        let segments = MediaId(digest.finish());

        let mut digest = Input::new("castellum init 1");
        digest.bytes(&segments.0.0);
        digest.bytes(&layout::init_bytes(presentation, track, keys)?);
        let init = MediaId(digest.finish());
        Ok(Self { init, segments })
    }
}

/// Names an immutable manifest: a digest of the documents that decide it and of the media ids that it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Digest);

impl Revision {
    /// The revision of a title under a policy. `documents` are whatever texts decide the manifest: asset
    /// document, policy, licence URL; each in a form that is the same on every node.
    pub fn compute<'a>(
        documents: impl IntoIterator<Item = &'a [u8]>,
        tracks: impl IntoIterator<Item = (&'a str, MediaIds)>,
    ) -> Self {
        let mut digest = Input::new("castellum revision 1");
        for document in documents {
            digest.bytes(document);
        }
        digest.bytes(b"tracks");
        for (name, media) in tracks {
            digest.bytes(name.as_bytes());
            digest.bytes(&media.init.0.0);
            digest.bytes(&media.segments.0.0);
        }
        Self(digest.finish())
    }
}

/// The generation of the content whose tracks share a key: `sources` in rank order.
///
/// A source's own number is digested with its identity, so that two titles never share a generation by having
/// raised different sources.
pub(crate) fn generation(sources: impl IntoIterator<Item = (SourceIdentity, u32)>) -> Generation {
    let mut digest = Context::new(&SHA256);
    digest.update(b"castellum generation 1\n");
    let mut highest = 0;
    for (identity, number) in sources {
        digest.update(identity.as_bytes());
        digest.update(&number.to_be_bytes());
        highest = highest.max(number);
    }
    let mut sources = [0; 32];
    sources.copy_from_slice(digest.finish().as_ref());
    Generation {
        sources,
        number: highest,
    }
}

/// 128 bits of SHA-256, written as 26 characters of `a-z2-7` (RFC 4648 base 32, lower case, no padding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Digest([u8; 16]);

/// Length of a written id.
const TEXT_LEN: usize = 26;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits and two of padding below them.
        let number = u128::from_be_bytes(self.0);
        let mut text = [0; TEXT_LEN];
        for (place, letter) in text.iter_mut().enumerate() {
            let shift = 5 * place;
            let five = if shift <= 123 {
                number >> (123 - shift)
            } else {
                number << (shift - 123)
            };
            let [.., low] = five.to_be_bytes();
            *letter = ALPHABET[usize::from(low & 31)];
        }
        f.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

/// The text is not an id: 26 characters of `a-z2-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is {TEXT_LEN} characters of a-z and 2-7")]
pub struct IdError;

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != TEXT_LEN {
            return Err(IdError);
        }
        let mut number: u128 = 0;
        for (place, byte) in text.bytes().enumerate() {
            let five = match byte {
                b'a'..=b'z' => byte - b'a',
                b'2'..=b'7' => byte - b'2' + 26,
                _ => return Err(IdError),
            };
            if place + 1 < TEXT_LEN {
                number = number << 5 | u128::from(five);
            } else if five & 3 == 0 {
                // The last character holds three bits: one id has one spelling.
                number = number << 3 | u128::from(five >> 2);
            } else {
                return Err(IdError);
            }
        }
        Ok(Self(number.to_be_bytes()))
    }
}

/// What is digested, each part with its length, so that no two lists of parts give the same bytes.
struct Input(Context);

impl Input {
    fn new(domain: &str) -> Self {
        let mut input = Self(Context::new(&SHA256));
        input.bytes(domain.as_bytes());
        input
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> Digest {
        let digest = self.0.finish();
        let mut first = [0; 16];
        first.copy_from_slice(&digest.as_ref()[..16]);
        Digest(first)
    }
}

macro_rules! written_as_its_digest {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $id {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
    )*};
}

written_as_its_digest!(MediaId, Revision);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_32_as_rfc_4648_has_it() {
        // python: base64.b32encode(bytes(range(16))).rstrip(b"=").lower()
        let bytes = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(Digest(bytes).to_string(), "aaaqeayeaudaocajbifqydiob4");
    }

    #[test]
    fn written_ids_read_back() {
        for number in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let digest = Digest(number.to_be_bytes());
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }

    #[test]
    fn one_id_has_one_spelling() {
        for text in [
            "",
            "aaaqeayeaudaocajbifqydiob5",
            "AAAQEAYEAUDAOCAJBIFQYDIOB4",
            "aaaqeayeaudaocajbifqydio04",
        ] {
            assert_eq!(text.parse::<MediaId>(), Err(IdError), "{text}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let revision = |documents: &[&'static str]| {
            Revision::compute(documents.iter().map(|d| d.as_bytes()), std::iter::empty())
        };
        assert_ne!(revision(&["ab", "c"]), revision(&["a", "bc"]));
    }

    #[test]
    fn a_raised_number_is_another_generation_whichever_source_raised_it() {
        let (a, b) = (SourceIdentity::new([1; 32]), SourceIdentity::new([2; 32]));
        let first = generation([(a, 1), (b, 0)]);
        let second = generation([(a, 0), (b, 1)]);
        assert_ne!(first, second);
        assert_eq!(first.number, 1);
    }
}
