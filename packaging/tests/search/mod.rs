//! Looks for secrets in bytes and files, in every spelling in which they might stand.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A secret, and the texts in which it might stand.
pub struct Secret {
    /// What it is called where it is found.
    pub name: String,
    /// As it is, first.
    spellings: Vec<Vec<u8>>,
}

impl Secret {
    /// A key: as it is, in hexadecimal of either case, in base64 and in base64url.
    pub fn bytes(name: impl Into<String>, key: &[u8]) -> Self {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut spellings = vec![key.to_vec()];
        for text in [
            hex.to_uppercase(),
            hex,
            STANDARD_NO_PAD.encode(key),
            URL_SAFE_NO_PAD.encode(key),
        ] {
            if !spellings.contains(&text.clone().into_bytes()) {
                spellings.push(text.into_bytes());
            }
        }
        let name = name.into();
        Self { name, spellings }
    }

    /// A text as it is.
    pub fn text(name: impl Into<String>, text: &str) -> Self {
        Self {
            name: name.into(),
            spellings: vec![text.as_bytes().to_vec()],
        }
    }
}

/// What was found: which secret, whether as it is, and where.
#[derive(Debug)]
pub struct Found {
    /// The secret's name.
    pub secret: String,
    /// Not in one of its other spellings.
    pub as_it_is: bool,
    /// Where.
    pub place: String,
    /// In pages that are left out of dumps.
    pub guarded: bool,
}

/// The secrets, by how their spellings begin.
pub struct Search<'a> {
    begins: Vec<Vec<(&'a Secret, usize)>>,
    /// The length of the longest spelling.
    pub longest: usize,
}

impl<'a> Search<'a> {
    /// For these.
    pub fn new(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut begins = vec![Vec::new(); 1 << 16];
        let mut longest = 0;
        for secret in secrets {
            for (at, spelling) in secret.spellings.iter().enumerate() {
                let begin = usize::from(u16::from_be_bytes([spelling[0], spelling[1]]));
                begins[begin].push((secret, at));
                longest = longest.max(spelling.len());
            }
        }
        Self { begins, longest }
    }

    /// Adds what is found in these bytes, whose place depends on the offset.
    pub fn bytes(&self, bytes: &[u8], place: impl Fn(usize) -> String, found: &mut Vec<Found>) {
        for (offset, pair) in bytes.windows(2).enumerate() {
            let begin = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
            for (secret, spelling) in &self.begins[begin] {
                if bytes[offset..].starts_with(&secret.spellings[*spelling]) {
                    found.push(Found {
                        secret: secret.name.clone(),
                        as_it_is: *spelling == 0,
                        place: place(offset),
                        guarded: false,
                    });
                }
            }
        }
    }

    /// Every file under `folder` but those that are named.
    pub fn files(&self, folder: &Path, but: &[&Path]) -> Vec<Found> {
        let mut paths = Vec::new();
        files(folder, &mut paths);
        let mut found = Vec::new();
        for path in paths.iter().filter(|path| !but.contains(&path.as_path())) {
            let place = |offset| format!("{} at {offset}", path.display());
            self.bytes(&fs::read(path).unwrap(), place, &mut found);
        }
        found
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        match file.file_type().unwrap() {
            kind if kind.is_dir() => files(&file.path(), found),
            kind if kind.is_file() => found.push(file.path()),
            _ => {}
        }
    }
}
