use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Where a secret lies: settings hold this, never the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretSource {
    path: PathBuf,
    credential: Option<String>,
}

/// The largest secret: a PEM chain fits, a mistaken path to a film does not.
const MAX_BYTES: u64 = 256 * 1024;

impl SecretSource {
    /// The secret is the content of this file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            credential: None,
        }
    }

    /// The secret is the systemd credential of this name, which `folder` holds.
    pub(crate) fn credential(folder: &Path, name: &str) -> Self {
        Self {
            path: folder.join(name),
            credential: Some(name.to_owned()),
        }
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret, byte for byte.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` for more than 256 KiB.
    pub fn read(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = File::open(&self.path)?;
        // Reserved at once: a vector that grows leaves unwiped copies behind.
        let len = usize::try_from(file.metadata()?.len().min(MAX_BYTES)).unwrap_or(0);
        let mut secret = Zeroizing::new(Vec::with_capacity(len + 1));
        file.take(MAX_BYTES + 1).read_to_end(&mut secret)?;
        if secret.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a secret has at most 256 KiB",
            ));
        }
        Ok(secret)
    }

    /// Reads a secret that a person typed into a file: one trailing line feed (and carriage return) is not
    /// part of it.
    ///
    /// # Errors
    /// As for [`SecretSource::read`].
    pub fn read_line(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut secret = self.read()?;
        if secret.last() == Some(&b'\n') {
            secret.pop();
            if secret.last() == Some(&b'\r') {
                secret.pop();
            }
        }
        Ok(secret)
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.credential {
            Some(name) => write!(f, "credential {name}"),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_is_not_part_of_a_typed_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        for (written, meant) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("abc\n\n", "abc\n"),
        ] {
            std::fs::write(&path, written).unwrap();
            let source = SecretSource::file(&path);
            assert_eq!(source.read_line().unwrap().as_slice(), meant.as_bytes());
            assert_eq!(source.read().unwrap().as_slice(), written.as_bytes());
        }
    }

    #[test]
    fn a_film_is_not_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        std::fs::write(&path, vec![0; 256 * 1024 + 1]).unwrap();
        assert_eq!(
            SecretSource::file(&path).read().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
