//! Every URL that the origin serves: `Resource` spelled out, and relative forms for manifests.
//!
//! ```text
//! alias      /v1/{asset}/{policy}/main.m3u8 | main.mpd
//! manifest   /v1/{asset}/{policy}/~{rev}/main.m3u8 | main.mpd
//! playlist   /v1/{asset}/{policy}/~{rev}/{rep}.m3u8
//! media      /v1/{asset}/{pack}/{rep}/~{mid}/init.mp4 | {n}.m4s
//! ```

use std::fmt;

use keystore_types::AssetId;

use crate::identity::{MediaId, Revision};

/// HLS or DASH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManifestKind {
    /// The multivariant playlist (RFC 8216).
    Hls,
    /// The MPD (ISO/IEC 23009-1).
    Dash,
}

impl ManifestKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Hls, Self::Dash];

    /// The last segment of its URL.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Hls => "main.m3u8",
            Self::Dash => "main.mpd",
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Hls => "application/vnd.apple.mpegurl",
            Self::Dash => "application/dash+xml",
        }
    }
}

/// A file of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaObject {
    /// The init segment.
    Init,
    /// Segment number, from 1.
    Segment(u32),
}

impl MediaObject {
    /// What the init segment is called.
    pub const INIT: &'static str = "init.mp4";
    /// What the name of a segment ends in, after its number.
    pub const SEGMENT_SUFFIX: &'static str = ".m4s";
}

impl fmt::Display for MediaObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init => f.write_str(Self::INIT),
            Self::Segment(number) => write!(f, "{number}{}", Self::SEGMENT_SUFFIX),
        }
    }
}

/// What a URL names. `Display` is its absolute path; the origin's router is the inverse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// The current manifest.
    Alias {
        /// The asset.
        asset: AssetId,
        /// The policy.
        policy: String,
        /// HLS or DASH.
        kind: ManifestKind,
    },
    /// One manifest for ever.
    Manifest {
        /// The asset.
        asset: AssetId,
        /// The policy.
        policy: String,
        /// Which.
        revision: Revision,
        /// HLS or DASH.
        kind: ManifestKind,
    },
    /// A media playlist.
    Playlist {
        /// The asset.
        asset: AssetId,
        /// The policy.
        policy: String,
        /// Of which manifest.
        revision: Revision,
        /// The track.
        rep: String,
    },
    /// An init segment or a segment.
    Media {
        /// The asset.
        asset: AssetId,
        /// The pack.
        pack: String,
        /// The track.
        rep: String,
        /// The bytes.
        media: MediaId,
        /// Which of its files.
        object: MediaObject,
    },
}

/// The first segment of every path, which versions the scheme.
pub const ROOT: &str = "v1";
/// What stands before a revision or a media id.
pub const DIGEST_MARK: char = '~';
/// What the name of a playlist ends in.
pub const PLAYLIST_SUFFIX: &str = ".m3u8";

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias {
                asset,
                policy,
                kind,
            } => {
                write!(f, "/{ROOT}/{asset}/{policy}/{}", kind.file_name())
            }
            Self::Manifest {
                asset,
                policy,
                revision,
                kind,
            } => {
                write!(
                    f,
                    "/{ROOT}/{asset}/{policy}/{DIGEST_MARK}{revision}/{}",
                    kind.file_name()
                )
            }
            Self::Playlist {
                asset,
                policy,
                revision,
                rep,
            } => {
                write!(
                    f,
                    "/{ROOT}/{asset}/{policy}/{DIGEST_MARK}{revision}/{rep}{PLAYLIST_SUFFIX}"
                )
            }
            Self::Media {
                asset,
                pack,
                rep,
                media,
                object,
            } => {
                write!(
                    f,
                    "/{ROOT}/{asset}/{pack}/{rep}/{DIGEST_MARK}{media}/{object}"
                )
            }
        }
    }
}

/// Where a manifest stands, and so how many steps lead up from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// `/v1/{asset}/{policy}/`
    Alias,
    /// `/v1/{asset}/{policy}/~{rev}/`
    Revision,
}

/// Relative URLs as one manifest spells them.
///
/// They are relative, so that any host, any prefix and any pathway before them works untouched.
#[derive(Clone, Copy, Debug)]
pub struct UrlScheme {
    depth: Depth,
    revision: Revision,
}

impl UrlScheme {
    /// The URLs in a manifest of `revision` that stands at `depth`.
    pub const fn new(depth: Depth, revision: Revision) -> Self {
        Self { depth, revision }
    }

    /// The media playlist of track `rep`.
    pub fn playlist(&self, rep: &str) -> String {
        match self.depth {
            Depth::Alias => format!("{DIGEST_MARK}{}/{rep}{PLAYLIST_SUFFIX}", self.revision),
            Depth::Revision => format!("{rep}{PLAYLIST_SUFFIX}"),
        }
    }

    /// A file of track `rep`.
    pub fn media(&self, pack: &str, rep: &str, media: MediaId, object: MediaObject) -> String {
        format!("{}{object}", self.media_folder(pack, rep, media))
    }

    /// All segments of track `rep`, as a DASH template (ISO/IEC 23009-1 5.3.9.4.4).
    pub fn segment_template(&self, pack: &str, rep: &str, media: MediaId) -> String {
        format!(
            "{}$Number${}",
            self.media_folder(pack, rep, media),
            MediaObject::SEGMENT_SUFFIX
        )
    }

    /// What a file of track `rep` has before its own name.
    pub(super) fn media_folder(&self, pack: &str, rep: &str, media: MediaId) -> String {
        let up = match self.depth {
            Depth::Alias => "../",
            Depth::Revision => "../../",
        };
        format!("{up}{pack}/{rep}/{DIGEST_MARK}{media}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision() -> Revision {
        "aaaqeayeaudaocajbifqydiob4".parse().unwrap()
    }

    fn media() -> MediaId {
        "abcdefghijklmnopqrstuvwxya".parse().unwrap()
    }

    /// What a client makes of `reference` on a page at `base` (RFC 3986 5.2, as far as it is needed).
    fn resolve(base: &str, reference: &str) -> String {
        let mut path: Vec<&str> = base.split('/').collect();
        path.pop();
        for step in reference.split('/') {
            if step == ".." {
                path.pop();
            } else {
                path.push(step);
            }
        }
        path.join("/")
    }

    #[test]
    fn relative_urls_reach_what_they_name_from_either_depth() {
        let asset: AssetId = "film".parse().unwrap();
        let (policy, rep) = ("cenc".to_owned(), "v720-1000k".to_owned());
        let alias = Resource::Alias {
            asset: asset.clone(),
            policy: policy.clone(),
            kind: ManifestKind::Dash,
        };
        let fixed = Resource::Manifest {
            asset: asset.clone(),
            policy: policy.clone(),
            revision: revision(),
            kind: ManifestKind::Dash,
        };
        let playlist = Resource::Playlist {
            asset: asset.clone(),
            policy,
            revision: revision(),
            rep: rep.clone(),
        };
        let segment = Resource::Media {
            asset,
            pack: "cenc4".to_owned(),
            rep: rep.clone(),
            media: media(),
            object: MediaObject::Segment(7),
        };
        for (base, depth) in [(alias, Depth::Alias), (fixed, Depth::Revision)] {
            let (base, urls) = (base.to_string(), UrlScheme::new(depth, revision()));
            assert_eq!(resolve(&base, &urls.playlist(&rep)), playlist.to_string());
            let media = urls.media("cenc4", &rep, media(), MediaObject::Segment(7));
            assert_eq!(resolve(&base, &media), segment.to_string());
        }
        // A media playlist stands beside the manifest of its revision.
        let urls = UrlScheme::new(Depth::Revision, revision());
        let media = urls.media("cenc4", &rep, media(), MediaObject::Segment(7));
        assert_eq!(resolve(&playlist.to_string(), &media), segment.to_string());
    }

    #[test]
    fn spellings() {
        let urls = UrlScheme::new(Depth::Alias, revision());
        assert_eq!(
            urls.playlist("a-en-128k"),
            "~aaaqeayeaudaocajbifqydiob4/a-en-128k.m3u8"
        );
        assert_eq!(
            urls.segment_template("cbcs4", "a-en-128k", media()),
            "../cbcs4/a-en-128k/~abcdefghijklmnopqrstuvwxya/$Number$.m4s"
        );
        assert_eq!(MediaObject::Init.to_string(), "init.mp4");
    }
}
