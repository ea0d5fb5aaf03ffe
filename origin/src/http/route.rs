//! From a request path to what is asked for. Pure: knows the spelling of URLs and nothing of what exists.
//!
//! Every object has one spelling. A path that could be read in two ways (escapes, empty or dot segments,
//! leading zeros) is refused, so that no cache holds one object twice.

use keystore_types::AssetId;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The asset.
    pub asset: AssetId,
    /// The object of it.
    pub object: Object<'a>,
}

/// An object of an asset. Names, revisions and media ids are as spelt; whether they exist is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// The current manifest, under a short time to live.
    Alias {
        /// The policy.
        policy: &'a str,
        /// The filter, if any.
        filter: Option<&'a str>,
        /// HLS or DASH.
        format: Format,
    },
    /// A manifest of one revision.
    Manifest {
        /// The policy.
        policy: &'a str,
        /// The revision, without its tilde.
        revision: &'a str,
        /// The filter, if any.
        filter: Option<&'a str>,
        /// HLS or DASH.
        format: Format,
    },
    /// An HLS media playlist.
    Playlist {
        /// The policy.
        policy: &'a str,
        /// The revision, without its tilde.
        revision: &'a str,
        /// The filter, if any.
        filter: Option<&'a str>,
        /// A clip's bounds in milliseconds, if any.
        clip: Option<(u64, u64)>,
        /// The representation.
        rep: &'a str,
        /// Whether key frames only are listed.
        key_frames: bool,
    },
    /// Bytes of media.
    Media {
        /// The pack.
        pack: &'a str,
        /// The representation.
        rep: &'a str,
        /// The media id, without its tilde.
        media_id: &'a str,
        /// Which bytes.
        file: MediaFile,
    },
    /// A sheet of thumbnails.
    Image {
        /// The set.
        set: &'a str,
        /// The media id, without its tilde.
        media_id: &'a str,
        /// The sheet, from 1.
        number: u64,
    },
}

/// The two manifest formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `main.m3u8`.
    Hls,
    /// `main.mpd`.
    Dash,
}

/// A file of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaFile {
    /// `init.mp4`.
    Init,
    /// `{n}.m4s`, from 1.
    Segment(u64),
    /// `i{k}.m4s`: one key frame in a fragment of its own, from 1.
    KeyFrame(u64),
    /// `{n}.vtt`, from 1.
    Text(u64),
    /// `all.mp4`.
    Whole,
}

/// Why a path is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// It is not spelt as any URL here ever is: 400.
    Malformed,
    /// It is well spelt and names nothing: 404.
    Unknown,
}

impl<'a> Route<'a> {
    /// Reads a path, which begins with a slash and has no query.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn parse(path: &'a str) -> Result<Self, RouteError> {
        let rest = path.strip_prefix('/').ok_or(RouteError::Malformed)?;
        let well_spelt = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| {
                    b.is_ascii_alphanumeric()
                        || matches!(b, b'.' | b'_' | b'-' | b'~' | b';' | b'=' | b',')
                })
        };
        if !rest.split('/').all(well_spelt) {
            return Err(RouteError::Malformed);
        }
        let segments: Vec<&str> = rest.splitn(8, '/').collect();
        let ["v1", asset, object @ ..] = &segments[..] else {
            return Err(RouteError::Unknown);
        };
        let asset = asset.parse().map_err(|_| RouteError::Unknown)?;
        Ok(Self {
            asset,
            object: Object::parse(object).ok_or(RouteError::Unknown)?,
        })
    }
}

impl<'a> Object<'a> {
    fn parse(segments: &[&'a str]) -> Option<Self> {
        match *segments {
            ["img", set, media_id, file] => Some(Self::Image {
                set: name(set)?,
                media_id: tilde(media_id)?,
                number: number(file.strip_suffix(".jpg")?)?,
            }),
            [policy, file] => Some(Self::Alias {
                policy: name(policy)?,
                filter: None,
                format: format(file)?,
            }),
            [policy, revision, file] if revision.starts_with('~') => {
                Self::of_revision(name(policy)?, tilde(revision)?, None, None, file)
            }
            [policy, filter, file] => Some(Self::Alias {
                policy: name(policy)?,
                filter: Some(filter_text(filter)?),
                format: format(file)?,
            }),
            [pack, rep, media_id, file] if media_id.starts_with('~') => Some(Self::Media {
                pack: name(pack)?,
                rep: rep_name(rep)?,
                media_id: tilde(media_id)?,
                file: MediaFile::parse(file)?,
            }),
            [policy, revision, part, file] => match clip(part) {
                Some(clip) => {
                    Self::of_revision(name(policy)?, tilde(revision)?, None, Some(clip), file)
                }
                None => Self::of_revision(
                    name(policy)?,
                    tilde(revision)?,
                    Some(filter_text(part)?),
                    None,
                    file,
                ),
            },
            [policy, revision, filter, part, file] => Self::of_revision(
                name(policy)?,
                tilde(revision)?,
                Some(filter_text(filter)?),
                Some(clip(part)?),
                file,
            ),
            _ => None,
        }
    }

    fn of_revision(
        policy: &'a str,
        revision: &'a str,
        filter: Option<&'a str>,
        clip: Option<(u64, u64)>,
        file: &'a str,
    ) -> Option<Self> {
        if let (Some(format), None) = (format(file), clip) {
            return Some(Self::Manifest {
                policy,
                revision,
                filter,
                format,
            });
        }
        let rep = file.strip_suffix(".m3u8")?;
        let (rep, key_frames) = match rep.strip_prefix("i-") {
            Some(rep) => (rep, true),
            None => (rep, false),
        };
        Some(Self::Playlist {
            policy,
            revision,
            filter,
            clip,
            rep: rep_name(rep)?,
            key_frames,
        })
    }
}

impl MediaFile {
    fn parse(file: &str) -> Option<Self> {
        match file.rsplit_once('.')? {
            ("init", "mp4") => Some(Self::Init),
            ("all", "mp4") => Some(Self::Whole),
            (stem, "vtt") => Some(Self::Text(number(stem)?)),
            (stem, "m4s") => Some(match stem.strip_prefix('i') {
                Some(stem) => Self::KeyFrame(number(stem)?),
                None => Self::Segment(number(stem)?),
            }),
            _ => None,
        }
    }
}

fn format(file: &str) -> Option<Format> {
    match file {
        "main.m3u8" => Some(Format::Hls),
        "main.mpd" => Some(Format::Dash),
        _ => None,
    }
}

/// A name that begins with a letter or digit.
fn name(text: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (text.as_bytes().first()?.is_ascii_alphanumeric() && text.bytes().all(plain)).then_some(text)
}

/// The name of a representation, which leaves room for `main.m3u8` and `i-{rep}.m3u8`.
fn rep_name(text: &str) -> Option<&str> {
    name(text).filter(|rep| *rep != "main" && !rep.starts_with("i-"))
}

/// A digest behind its tilde.
fn tilde(text: &str) -> Option<&str> {
    name(text.strip_prefix('~')?)
}

/// A filter, such as `f;al=en;vh=0-720`, or a named one, `p;mobile`.
fn filter_text(text: &str) -> Option<&str> {
    (text.starts_with("f;") || text.starts_with("p;")).then_some(text)
}

/// `c{from}-{to}` in milliseconds.
fn clip(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.strip_prefix('c')?.split_once('-')?;
    let milliseconds = |text: &str| if text == "0" { Some(0) } else { number(text) };
    Some((milliseconds(from)?, milliseconds(to)?)).filter(|(from, to)| from < to)
}

/// A decimal number from 1, without leading zeros.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if digits && !text.starts_with('0') {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use origin_media::identity::{MediaId, Revision};
    use origin_media::manifest::{ManifestKind, MediaObject, Resource};

    use super::*;

    fn object(path: &str) -> Object<'_> {
        Route::parse(path)
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
            .object
    }

    #[test]
    fn every_form_of_the_url_scheme() {
        use Object::{Alias, Image, Manifest, Media, Playlist};
        assert_eq!(
            object("/v1/film/cbcs/main.m3u8"),
            Alias {
                policy: "cbcs",
                filter: None,
                format: Format::Hls
            }
        );
        assert_eq!(
            object("/v1/film/cbcs/f;al=en/main.mpd"),
            Alias {
                policy: "cbcs",
                filter: Some("f;al=en"),
                format: Format::Dash
            }
        );
        assert_eq!(
            object("/v1/film/cbcs/~abc1/main.mpd"),
            Manifest {
                policy: "cbcs",
                revision: "abc1",
                filter: None,
                format: Format::Dash
            }
        );
        assert_eq!(
            object("/v1/film/cbcs/~abc1/p;mobile/main.m3u8"),
            Manifest {
                policy: "cbcs",
                revision: "abc1",
                filter: Some("p;mobile"),
                format: Format::Hls
            }
        );
        let playlist = |filter, clip, key_frames| Playlist {
            policy: "cbcs",
            revision: "abc1",
            filter,
            clip,
            rep: "v720-1200k",
            key_frames,
        };
        assert_eq!(
            object("/v1/film/cbcs/~abc1/v720-1200k.m3u8"),
            playlist(None, None, false)
        );
        assert_eq!(
            object("/v1/film/cbcs/~abc1/i-v720-1200k.m3u8"),
            playlist(None, None, true)
        );
        assert_eq!(
            object("/v1/film/cbcs/~abc1/c0-9000/v720-1200k.m3u8"),
            playlist(None, Some((0, 9000)), false)
        );
        assert_eq!(
            object("/v1/film/cbcs/~abc1/f;al=en/c5-9000/v720-1200k.m3u8"),
            playlist(Some("f;al=en"), Some((5, 9000)), false)
        );
        let media = |file| Media {
            pack: "cbcs",
            rep: "a-en-128k",
            media_id: "x9",
            file,
        };
        assert_eq!(
            object("/v1/film/cbcs/a-en-128k/~x9/init.mp4"),
            media(MediaFile::Init)
        );
        assert_eq!(
            object("/v1/film/cbcs/a-en-128k/~x9/1.m4s"),
            media(MediaFile::Segment(1))
        );
        assert_eq!(
            object("/v1/film/cbcs/a-en-128k/~x9/i12.m4s"),
            media(MediaFile::KeyFrame(12))
        );
        assert_eq!(
            object("/v1/film/cbcs/a-en-128k/~x9/3.vtt"),
            media(MediaFile::Text(3))
        );
        assert_eq!(
            object("/v1/film/cbcs/a-en-128k/~x9/all.mp4"),
            media(MediaFile::Whole)
        );
        assert_eq!(
            object("/v1/film/img/small/~x9/7.jpg"),
            Image {
                set: "small",
                media_id: "x9",
                number: 7
            }
        );
    }

    #[test]
    fn spellings_that_are_never_ours_are_malformed() {
        for path in [
            "v1/film/cbcs/main.mpd",
            "/v1//cbcs/main.mpd",
            "/v1/film/../cbcs/main.mpd",
            "/v1/film/./main.mpd",
            "/v1/fi%6cm/cbcs/main.mpd",
            "/v1/film/cbcs%2fmain.mpd",
            "/v1/film/cbcs/main.mpd/",
            "/v1/film\\cbcs/main.mpd",
            "/v1/fi\0lm/cbcs/main.mpd",
            "/v1/é/cbcs/main.mpd",
            "/",
        ] {
            assert_eq!(Route::parse(path), Err(RouteError::Malformed), "{path}");
        }
    }

    #[test]
    fn what_names_nothing_is_unknown() {
        for path in [
            "/v2/film/cbcs/main.mpd",
            "/v1/film",
            "/v1/film/cbcs/main.txt",
            "/v1/film/cbcs/other.m3u8",
            "/v1/film/cbcs/~abc1/main.txt",
            "/v1/film/cbcs/a/~x9/0.m4s",
            "/v1/film/cbcs/a/~x9/01.m4s",
            "/v1/film/cbcs/a/~x9/1.mp4",
            "/v1/film/cbcs/a/~x9/99999999999999999999.m4s",
            "/v1/film/cbcs/main/~x9/1.m4s",
            "/v1/film/cbcs/i-a/~x9/1.m4s",
            "/v1/film/cbcs/~abc1/c9-5/a.m3u8",
            "/v1/film/cbcs/~abc1/c0-9000/main.m3u8",
            "/v1/film/~abc1/main.m3u8",
            "/v1/film/-x/main.m3u8",
            "/v1/film/a/b/c/d/e/f/g/h",
        ] {
            assert_eq!(Route::parse(path), Err(RouteError::Unknown), "{path}");
        }
    }

    /// The `Resource` that a route is read from, as this version can make one.
    fn resource(route: &Route<'_>) -> Option<Resource> {
        let asset = route.asset.clone();
        let kind = |format| match format {
            Format::Hls => ManifestKind::Hls,
            Format::Dash => ManifestKind::Dash,
        };
        Some(match route.object {
            Object::Alias {
                policy,
                filter: None,
                format,
            } => Resource::Alias {
                asset,
                policy: policy.to_owned(),
                kind: kind(format),
            },
            Object::Manifest {
                policy,
                revision,
                filter: None,
                format,
            } => Resource::Manifest {
                asset,
                policy: policy.to_owned(),
                revision: revision.parse().ok()?,
                kind: kind(format),
            },
            Object::Playlist {
                policy,
                revision,
                filter: None,
                clip: None,
                rep,
                key_frames: false,
            } => Resource::Playlist {
                asset,
                policy: policy.to_owned(),
                revision: revision.parse().ok()?,
                rep: rep.to_owned(),
            },
            Object::Media {
                pack,
                rep,
                media_id,
                file,
            } => Resource::Media {
                asset,
                pack: pack.to_owned(),
                rep: rep.to_owned(),
                media: media_id.parse().ok()?,
                object: match file {
                    MediaFile::Init => MediaObject::Init,
                    MediaFile::Segment(number) => MediaObject::Segment(number.try_into().ok()?),
                    MediaFile::KeyFrame(_) | MediaFile::Text(_) | MediaFile::Whole => return None,
                },
            },
            Object::Alias { .. }
            | Object::Manifest { .. }
            | Object::Playlist { .. }
            | Object::Image { .. } => return None,
        })
    }

    #[test]
    fn what_manifests_name_is_read_back_as_it_was_meant() {
        let asset: AssetId = "film".parse().unwrap();
        let policy = "cbcs-identity".to_owned();
        let revision = Revision::compute([&b"documents"[..]], std::iter::empty());
        let media: MediaId = revision.to_string().parse().unwrap();
        let mut named = Vec::new();
        for kind in [ManifestKind::Dash, ManifestKind::Hls] {
            named.push(Resource::Alias {
                asset: asset.clone(),
                policy: policy.clone(),
                kind,
            });
            named.push(Resource::Manifest {
                asset: asset.clone(),
                policy: policy.clone(),
                revision,
                kind,
            });
        }
        for rep in ["v720-1200k", "a-en-128k-2"].map(str::to_owned) {
            named.push(Resource::Playlist {
                asset: asset.clone(),
                policy: policy.clone(),
                revision,
                rep: rep.clone(),
            });
            for object in [
                MediaObject::Init,
                MediaObject::Segment(1),
                MediaObject::Segment(u32::MAX),
            ] {
                let (asset, pack, rep) = (asset.clone(), "cbcs".to_owned(), rep.clone());
                named.push(Resource::Media {
                    asset,
                    pack,
                    rep,
                    media,
                    object,
                });
            }
        }
        for named in named {
            let path = named.to_string();
            let route = Route::parse(&path).unwrap_or_else(|error| panic!("{path}: {error:?}"));
            assert_eq!(resource(&route), Some(named), "{path}");
        }
    }
}
