//! Embeds the demo's title, and the player page where it has been built: `cargo build` alone needs no Node.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let mut code = String::new();
    embed(&mut code, "TITLE", &here.join("demo/title"))?;
    embed(&mut code, "PAGE", &here.join("page/dist"))?;
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"),
        code,
    )?;
    // A folder that is not there would count as changed at every build: its parent is watched.
    println!("cargo::rerun-if-changed=demo");
    println!("cargo::rerun-if-changed=page");
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}

/// Writes `static NAME: &[(file name, content)]` with the files of `folder` in the order of their names.
fn embed(code: &mut String, name: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    writeln!(code, "pub(crate) static {name}: &[(&str, &[u8])] = &[")?;
    for path in files {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        writeln!(
            code,
            "    ({file:?}, include_bytes!({:?})),",
            path.display().to_string()
        )?;
    }
    writeln!(code, "];")?;
    Ok(())
}
