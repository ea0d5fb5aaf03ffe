//! Countries by address, from a MaxMind DB file (format 2.0), which is read into memory and again when it has changed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use maxminddb::{Reader, path};

use crate::Error;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// The largest file: those of whole cities have some 100 MiB.
const MAX_LEN: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct Countries {
    path: PathBuf,
    read: RwLock<Read>,
}

#[derive(Clone, Debug)]
struct Read {
    reader: Arc<Reader<Vec<u8>>>,
    stamp: Stamp,
}

/// By which a change is seen.
type Stamp = (u64, Option<SystemTime>);

impl Countries {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            read: RwLock::new(read(path)?),
        })
    }

    /// The country that the address is registered in, in two letters.
    pub(super) fn of(&self, address: IpAddr) -> Option<String> {
        let reader = {
            let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&read.reader)
        };
        let found = reader.lookup(address).ok()?;
        let country = found.decode_path::<String>(&path!["country", "iso_code"]);
        country.ok()?
    }

    /// Looks at the file again and again. One that cannot be read leaves what was read before.
    pub(super) async fn follow(&self) {
        let mut failing = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let stamp = stamp(&self.path).ok();
            // Once for each state of the file.
            if stamp.is_some() && stamp == failing {
                continue;
            }
            match self.look() {
                Ok(()) => failing = None,
                Err(error) => {
                    failing = stamp;
                    tracing::error!(%error, "countries are as they were");
                }
            }
        }
    }

    fn look(&self) -> Result<(), Error> {
        let stamp = stamp(&self.path)?;
        let was = {
            let read = self.read.read().unwrap_or_else(PoisonError::into_inner);
            read.stamp
        };
        if stamp != was {
            let new = read(&self.path)?;
            *self.read.write().unwrap_or_else(PoisonError::into_inner) = new;
            tracing::info!(path = %self.path.display(), "countries were read anew");
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp, Error> {
    let metadata = std::fs::metadata(path).map_err(|error| unread(path, error))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

fn read(path: &Path) -> Result<Read, Error> {
    // Before it is read: a change meanwhile is another stamp.
    let stamp = stamp(path)?;
    if stamp.0 > MAX_LEN {
        return Err(unread(path, "it is larger than 512 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| unread(path, error))?;
    let reader = Reader::from_source(bytes).map_err(|error| unread(path, error))?;
    Ok(Read {
        reader: Arc::new(reader),
        stamp,
    })
}

fn unread(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let attempted = format!("read {} (license.access.country_file)", path.display());
    Error::unavailable(attempted, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that knows the lower half of IPv4 to be of this country, and nothing of the upper.
    fn file(country: &str) -> Vec<u8> {
        let text = |text: &str| {
            let mut bytes = vec![0x40 | u8::try_from(text.len()).unwrap()];
            bytes.extend(text.as_bytes());
            bytes
        };
        let map = |pairs: &[(&str, Vec<u8>)]| {
            let mut bytes = vec![0xe0 | u8::try_from(pairs.len()).unwrap()];
            for (key, value) in pairs {
                bytes.extend(text(key));
                bytes.extend(value);
            }
            bytes
        };
        let short = |number: u8| vec![0xa1, number];
        // One node. Left: data at offset 0, which is counted from after the tree and 16 bytes. Right: the number of
        // nodes, which is nothing.
        let mut bytes = vec![0, 0, 17, 0, 0, 1];
        bytes.extend([0; 16]);
        bytes.extend(map(&[("country", map(&[("iso_code", text(country))]))]));
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(&[
            ("binary_format_major_version", short(2)),
            ("binary_format_minor_version", vec![0xa0]),
            ("build_epoch", vec![0x01, 0x02, 1]),
            ("database_type", text("Country")),
            ("description", map(&[])),
            ("ip_version", short(4)),
            ("languages", vec![0x00, 0x04]),
            ("node_count", vec![0xc1, 1]),
            ("record_size", short(24)),
        ]));
        bytes
    }

    #[test]
    fn a_country_is_found_and_a_new_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("country.mmdb");
        std::fs::write(&path, file("SE")).unwrap();
        let countries = Countries::open(&path).unwrap();
        let of = |address: &str| countries.of(address.parse().unwrap());
        assert_eq!(of("10.0.0.1").as_deref(), Some("SE"));
        assert_eq!(of("192.0.2.1"), None);
        assert_eq!(of("2001:db8::1"), None);

        std::fs::write(&path, "no such file").unwrap();
        let error = countries.look().unwrap_err().to_string();
        assert!(error.contains("license.access.country_file"), "{error}");
        assert_eq!(of("10.0.0.1").as_deref(), Some("SE"), "as it was");
        std::fs::write(&path, file("FI")).unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        countries.look().unwrap();
        assert_eq!(of("10.0.0.1").as_deref(), Some("FI"));
        assert!(Countries::open(&folder.path().join("none")).is_err());
    }
}
