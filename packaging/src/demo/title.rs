//! What is built into the binary: the demo's title and the player page (see `build.rs`).

use std::fs;
use std::io;
use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The name of the built-in title.
const ASSET: &str = "castellum";

/// Writes the built-in title into a media root.
///
/// # Errors
/// Those of the file system.
pub(crate) fn unpack(media_root: &Path) -> io::Result<()> {
    let folder = media_root.join(ASSET);
    fs::create_dir_all(&folder)?;
    for (name, content) in TITLE {
        let path = folder.join(name);
        // A kept folder has it already, and rewriting it would be a change of its source.
        if fs::metadata(&path).map_or(true, |found| found.len() != content.len() as u64) {
            fs::write(path, content)?;
        }
    }
    Ok(())
}
