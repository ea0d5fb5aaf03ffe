//! An origin with ten thousand titles in its media root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Measured;
use crate::bench::Failure;
use crate::bench::goals::SHORT;
use crate::bench::series::Series;
use crate::bench::stage::{MANIFESTS, Stage};

const TITLES: usize = 10_000;

/// From the start of the process until it is ready.
pub(super) fn start_time(stage: &mut Stage) -> Result<Measured, Failure> {
    let (media, folder) = many(stage)?;
    // The first start makes the state that later ones find.
    drop(stage.start(&media, &folder, MANIFESTS)?);
    let mut figures = Series::default();
    for _ in 0..stage.plan().rounds {
        let begun = Instant::now();
        let castellum = stage.start(&media, &folder, MANIFESTS)?;
        figures.push(begun.elapsed().as_secs_f64() * 1e3);
        let listed = castellum.admin("/api/v1/assets")?.matches("\"id\"").count();
        if listed != TITLES {
            return Err(Failure::asking(
                "/api/v1/assets",
                format!("{listed} titles are listed"),
            ));
        }
    }
    Ok(figures.into())
}

/// What is resident, mapped files included, once it has looked through the folder several times.
pub(super) fn memory(stage: &mut Stage) -> Result<Measured, Failure> {
    let (media, folder) = many(stage)?;
    let mut figures = Series::default();
    let mut anonymous = Series::default();
    for _ in 0..stage.plan().rounds {
        let castellum = stage.start(&media, &folder, MANIFESTS)?;
        castellum.settle_for_scans();
        let processes = castellum.processes();
        let usage = processes
            .snapshot()
            .and_then(|start| processes.usage_since(&start));
        let usage = usage.map_err(|error| Failure::at(Path::new("/proc"), error))?;
        figures.push(megabytes(usage.peak_resident));
        anonymous.push(megabytes(usage.anonymous));
    }
    let note = anonymous
        .spread()
        .map(|spread| format!("at its peak; {:.0} MB of its own at the end", spread.median));
    Ok(Measured {
        note,
        ..Measured::from(figures)
    })
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A media root of that many names of one film, and a folder for the origin.
fn many(stage: &mut Stage) -> Result<(PathBuf, PathBuf), Failure> {
    let film = stage.plan().media.join(SHORT).with_extension("mp4");
    let media = stage.plan().work.join("many");
    if !media.exists() {
        link(&film, &media).map_err(|error| Failure::at(&film, error))?;
    }
    Ok((media, stage.folder()))
}

/// Links where the file system can, as every title is read by its own name all the same.
fn link(film: &Path, media: &Path) -> io::Result<()> {
    fs::create_dir_all(media)?;
    let kept = media.with_extension("mp4");
    fs::hard_link(film, &kept).or_else(|_| fs::copy(film, &kept).map(drop))?;
    for number in 0..TITLES {
        fs::hard_link(&kept, media.join(format!("title-{number:05}.mp4")))?;
    }
    Ok(())
}
