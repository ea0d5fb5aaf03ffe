//! A source file in memory, indexed as the origin does it.

#![allow(dead_code, reason = "each test takes what it needs")]

pub mod film;
pub mod syntax;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use origin_media::error::ParseError;
use origin_media::index::{self, Index, MoovFinder, Track};

/// A file and its index.
pub struct Source {
    pub file: Vec<u8>,
    pub index: Index,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self, ParseError> {
        Self::index(std::fs::read(path).unwrap())
    }

    pub fn index(file: Vec<u8>) -> Result<Self, ParseError> {
        let slice = |range: Range<u64>| {
            &file[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
        };
        let mut finder = MoovFinder::new(file.len() as u64);
        while let Some(range) = finder.wants() {
            finder.feed(slice(range))?;
        }
        let moov = finder.found().unwrap();
        let index = index::build(slice(moov.clone()), moov.start, file.len() as u64)?;
        Ok(Self { file, index })
    }

    pub fn sample(&self, track: &Track, n: u32) -> &[u8] {
        let start = usize::try_from(track.offset(n)).unwrap();
        &self.file[start..start + track.size(n) as usize]
    }
}

/// The MP4 files that developers share beside the project, or none, said aloud.
pub fn shared_media() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/media");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: {} is absent", folder.display());
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "mp4"));
    files.sort();
    files
}

/// Whether `program` can be started; says so if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("-version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is absent");
    }
    found
}
