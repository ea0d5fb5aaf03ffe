use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// What tells a node that a file is not the one it opened: never part of what is served, since two nodes hold
/// the same content under different stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The device and inode: changed by a rename over the path.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// The length in bytes.
    pub len: u64,
    /// The modification time in nanoseconds since 1970.
    pub modified_ns: i128,
    /// The change time, which no program can set back.
    pub changed_ns: i128,
    /// How many names the file has.
    pub links: u64,
}

impl Stamp {
    /// The stamp of a stat.
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, fraction: i64| {
            i128::from(seconds) * 1_000_000_000 + i128::from(fraction)
        };
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            links: metadata.nlink(),
        }
    }

    /// Whether a later stat of the same open file shows no sign that its content was written to.
    ///
    /// Losing a name, to an unlink or to another file renamed over it, moves the change time but not the
    /// content: who reads the file goes on.
    pub fn same_content(&self, later: &Self) -> bool {
        self.device == later.device
            && self.inode == later.inode
            && self.len == later.len
            && self.modified_ns == later.modified_ns
            && (self.changed_ns == later.changed_ns || self.links != later.links)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn unlinking_is_no_change_and_writing_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        fs::write(&path, b"abc").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let first = Stamp::of(&file.metadata().unwrap());
        assert!(first.same_content(&Stamp::of(&file.metadata().unwrap())));
        fs::remove_file(&path).unwrap();
        assert!(first.same_content(&Stamp::of(&file.metadata().unwrap())));

        fs::write(&path, b"abc").unwrap();
        let first = Stamp::of(&fs::metadata(&path).unwrap());
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!(!first.same_content(&Stamp::of(&file.metadata().unwrap())));
    }

    #[test]
    fn setting_the_modification_time_back_does_not_hide_a_write() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        fs::write(&path, b"abc").unwrap();
        let first = fs::metadata(&path).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(b"xyz").unwrap();
        file.set_modified(first.modified().unwrap()).unwrap();
        assert!(!Stamp::of(&first).same_content(&Stamp::of(&file.metadata().unwrap())));
    }
}
