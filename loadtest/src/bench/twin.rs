//! Exported files, by what they are: the URLs that both sides are asked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Failure;
use super::goals::{Files, Manifest, Part, Rung};

/// A folder of exported assets.
pub(super) struct Twin {
    root: PathBuf,
}

/// Segments of a part. Few enough that every part is as hot in the caches as another.
const PART: usize = 64;

impl Twin {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The URL paths of `files`, in order.
    pub(super) fn paths(&self, files: &Files) -> Result<Vec<String>, Failure> {
        let asset = match files {
            Files::Segments { asset, .. } | Files::Manifest { asset, .. } => asset,
        };
        let folder = self.root.join("v1").join(asset);
        let found = find(&folder, files).map_err(|error| Failure::at(&folder, error))?;
        if found.is_empty() {
            return Err(Failure::at(&folder, io::ErrorKind::NotFound.into()));
        }
        let path = |file: &PathBuf| {
            let relative = file.strip_prefix(&self.root).unwrap_or(file);
            format!("/{}", relative.display())
        };
        Ok(found.iter().map(path).collect())
    }
}

fn find(asset: &Path, files: &Files) -> io::Result<Vec<PathBuf>> {
    match *files {
        Files::Segments {
            pack, rung, part, ..
        } => {
            let mut rungs = Vec::new();
            for rendition in entries(&asset.join(pack))? {
                // Renditions of pictures are named `v...`.
                if name(&rendition).starts_with('v') {
                    rungs.push(segments(&rendition)?);
                }
            }
            rungs.retain(|(_, segments)| !segments.is_empty());
            rungs.sort_by_key(|(size, _)| *size);
            let found = match rung {
                Rung::Largest => rungs.pop(),
                Rung::Smallest => rungs.into_iter().next(),
            };
            Ok(found.map_or_else(Vec::new, |(_, segments)| cut(segments, part)))
        }
        Files::Manifest { policy, which, .. } => {
            let folder = asset.join(policy);
            match which {
                Manifest::Multivariant => Ok(vec![folder.join("main.m3u8")]),
                Manifest::Mpd => Ok(vec![folder.join("main.mpd")]),
                Manifest::Playlist => {
                    let mut found = Vec::new();
                    for revision in entries(&folder)? {
                        if name(&revision).starts_with('~') {
                            found.extend(entries(&revision)?);
                        }
                    }
                    let is_picture = |file: &PathBuf| {
                        name(file).starts_with('v') && name(file).ends_with(".m3u8")
                    };
                    Ok(found.into_iter().filter(is_picture).take(1).collect())
                }
            }
        }
    }
}

/// The segments of a rendition in order, without the last, which is shorter; and the mean of their lengths.
fn segments(rendition: &Path) -> io::Result<(u64, Vec<PathBuf>)> {
    let mut found = Vec::new();
    for media in entries(rendition)? {
        for file in entries(&media)? {
            let number = name(&file).strip_suffix(".m4s").map(str::parse::<u32>);
            if let Some(Ok(number)) = number {
                found.push((number, fs::metadata(&file)?.len(), file));
            }
        }
    }
    found.sort();
    if found.len() > 1 {
        found.pop();
    }
    let bytes: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
    let mean = bytes / (found.len() as u64).max(1);
    Ok((mean, found.into_iter().map(|(.., file)| file).collect()))
}

fn cut(segments: Vec<PathBuf>, part: Part) -> Vec<PathBuf> {
    let beyond = segments.len().saturating_sub(PART);
    let skipped = match part {
        Part::Whole => return segments,
        Part::Begin => 0,
        Part::Middle => beyond / 2,
        Part::End => beyond,
    };
    segments.into_iter().skip(skipped).take(PART).collect()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, bytes: usize) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
    }

    #[test]
    fn files_are_found_by_what_they_are() {
        let root = std::env::temp_dir().join(format!("loadtest-twin-{}", std::process::id()));
        for (rendition, bytes) in [("v1080", 30), ("v360", 3), ("a-en", 1)] {
            write(
                &root,
                &format!("v1/abr/cenc/{rendition}/~init/init.mp4"),
                100,
            );
            for number in 1..=200 {
                let file = format!("v1/abr/cenc/{rendition}/~media/{number}.m4s");
                write(&root, &file, bytes);
            }
        }
        for file in ["main.m3u8", "main.mpd", "~rev/a-en.m3u8", "~rev/v360.m3u8"] {
            write(&root, &format!("v1/abr/clear/{file}"), 10);
        }
        let twin = Twin::new(root.clone());
        let segments = |rung, part| {
            let (asset, pack) = ("abr", "cenc");
            twin.paths(&Files::Segments {
                asset,
                pack,
                rung,
                part,
            })
            .unwrap()
        };
        let whole = segments(Rung::Largest, Part::Whole);
        assert_eq!(whole.len(), 199);
        assert_eq!(whole[9], "/v1/abr/cenc/v1080/~media/10.m4s");
        let end = segments(Rung::Smallest, Part::End);
        assert_eq!(end.len(), PART);
        assert_eq!(end[PART - 1], "/v1/abr/cenc/v360/~media/199.m4s");
        let middle = segments(Rung::Smallest, Part::Middle);
        assert_eq!(middle[0], "/v1/abr/cenc/v360/~media/68.m4s");
        let playlist = twin.paths(&Files::Manifest {
            asset: "abr",
            policy: "clear",
            which: Manifest::Playlist,
        });
        assert_eq!(playlist.unwrap(), ["/v1/abr/clear/~rev/v360.m3u8"]);
        let absent = twin.paths(&Files::Manifest {
            asset: "long",
            policy: "clear",
            which: Manifest::Playlist,
        });
        assert!(absent.is_err());
        fs::remove_dir_all(root).unwrap();
    }
}
