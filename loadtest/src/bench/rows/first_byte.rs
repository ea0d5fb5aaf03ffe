//! How soon an idle origin begins to answer.

use std::fs;

use super::Measured;
use crate::bench::Failure;
use crate::bench::castellum::Castellum;
use crate::bench::goals::{LADDER, LONG, SHORT};
use crate::bench::probe::Probe;
use crate::bench::series::Series;
use crate::bench::stage::{MANIFESTS, Stage};

/// Starts of an origin to which a title is new.
const STARTS: usize = 16;

/// Encrypted segments that nobody asked for before, each once, then all of them again.
pub(super) fn of_segments(policy: &str, stage: &mut Stage) -> Result<Measured, Failure> {
    let media = stage.plan().media.clone();
    let folder = stage.folder();
    let castellum = stage.start(&media, &folder, MANIFESTS)?;
    let pictures = castellum.pictures(LADDER, policy)?;
    let segments = pictures
        .first()
        .map(|track| track.segments.clone())
        .unwrap_or_default();
    // The protection map is made in the background once a title is open.
    castellum.settle()?;
    let mut probe = Probe::connect(castellum.plain).map_err(|e| Failure::asking(LADDER, e))?;
    let mut pass = || -> Result<Series, Failure> {
        segments
            .iter()
            .map(|segment| first_byte_ms(&mut probe, segment.url.path()))
            .collect()
    };
    let (first, again) = (pass()?, pass()?);
    let note = again
        .spread()
        .map(|spread| format!("asked for again: {:.3} ms", spread.median));
    Ok(Measured {
        note,
        ..Measured::from(first)
    })
}

/// The middle of the long title, from an origin that has just started and served another.
pub(super) fn of_an_unseen_title(indexed: bool, stage: &mut Stage) -> Result<Measured, Failure> {
    let media = stage.plan().media.clone();
    let folder = stage.folder();
    // The same on every node: a first one says what the segment is called.
    let castellum = stage.start(&media, &folder, MANIFESTS)?;
    let path = middle_of(&castellum, LONG)?;
    let warm = middle_of(&castellum, SHORT)?;
    castellum.settle()?;
    drop(castellum);
    let mut first = Series::default();
    let mut manifest = Series::default();
    for start in 0..2 * STARTS {
        if !indexed {
            for state in ["origin", "cache"] {
                let state = folder.join(state);
                fs::remove_dir_all(&state).map_err(|error| Failure::at(&state, error))?;
            }
        }
        let castellum = stage.start(&media, &folder, MANIFESTS)?;
        let mut probe = Probe::connect(castellum.plain).map_err(|e| Failure::asking(LONG, e))?;
        first_byte_ms(&mut probe, &format!("/v1/{SHORT}/clear/main.mpd"))?;
        first_byte_ms(&mut probe, &warm)?;
        castellum.settle()?;
        if start % 2 == 0 {
            first.push(first_byte_ms(&mut probe, &path)?);
        } else {
            manifest.push(first_byte_ms(
                &mut probe,
                &format!("/v1/{LONG}/clear/main.mpd"),
            )?);
        }
    }
    let note = manifest
        .spread()
        .map(|spread| format!("its MPD in place of a segment: {:.2} ms", spread.median));
    Ok(Measured {
        note,
        ..Measured::from(first)
    })
}

/// The path of a segment in the middle of an asset.
fn middle_of(castellum: &Castellum, asset: &str) -> Result<String, Failure> {
    let pictures = castellum.pictures(asset, "clear")?;
    let segments = pictures.first().map(|track| &track.segments);
    let middle = segments.and_then(|segments| segments.get(segments.len() / 2));
    let middle = middle.ok_or_else(|| Failure::asking(asset, "it has no segment"))?;
    Ok(middle.url.path().to_owned())
}

fn first_byte_ms(probe: &mut Probe, path: &str) -> Result<f64, Failure> {
    let answer = probe
        .get(path)
        .map_err(|error| Failure::asking(path, error))?;
    if answer.status == 200 {
        Ok(answer.first_byte.as_secs_f64() * 1e3)
    } else {
        Err(Failure::asking(path, format!("status {}", answer.status)))
    }
}
