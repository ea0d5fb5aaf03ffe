//! The loadtest's viewers against the demo: every policy, over every protocol, decrypted and compared.
//!
//! They judge what is sent and not how fast: how many viewers a machine carries is for `loadtest/scenarios`.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
#![allow(dead_code, reason = "each test binary uses a part of the harness")]

mod appliance;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use appliance::{Demo, curl, representations};
use loadtest::client::{Protocol, Trust};
use loadtest::host::Processes;
use loadtest::saturate::{self, Saturation};
use loadtest::scenario::{self, Scenario};
use loadtest::target::Target;
use serde_json::Value;

#[test]
fn viewers_get_the_same_samples_over_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    for (protocol, tls) in [
        (Protocol::H1, true),
        (Protocol::H2, true),
        (Protocol::H3, true),
        (Protocol::H1, false),
        (Protocol::H2, false),
    ] {
        let report = load(folder.path(), &demo.json, protocol, tls);
        assert_eq!(report["passed"], true, "{report:#}");
        assert_eq!(report["compared"]["differing"], 0);
        for route in ["manifest", "playlist", "init", "segment", "licence"] {
            let routes = report["routes"].as_array().unwrap();
            let row = routes.iter().find(|row| row["route"] == route);
            let row = row.unwrap_or_else(|| panic!("no {route} in {report:#}"));
            assert!(
                row["count"].as_u64() > Some(0) && row["errors"] == 0,
                "{row}"
            );
        }
    }
}

#[test]
fn viewers_notice_a_refused_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(folder.path(), &[]);
    let forged = demo.base("token").replace("eyJ0", "eyJh");
    demo.json["token"] = Value::String(forged);
    let report = load(folder.path(), &demo.json, Protocol::H2, true);
    assert_eq!(report["passed"], false);
    assert!(
        report["failures"].to_string().contains("/license/"),
        "{report:#}"
    );
    assert!(
        report["failures"].to_string().contains("status 403"),
        "{report:#}"
    );
}

#[test]
fn viewers_notice_samples_of_another_film() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    let title = appliance::project().join("packaging/demo/title");
    for (asset, file) in [
        ("film", "castellum-360.mp4"),
        ("other", "castellum-180.mp4"),
    ] {
        fs::create_dir_all(media.join(asset)).unwrap();
        // The same name for both, and so, perhaps, for their renditions: only the samples tell them apart.
        fs::copy(title.join(file), media.join(asset).join("video.mp4")).unwrap();
    }
    let mut demo = Demo::start(folder.path(), &["--media", media.to_str().unwrap()]);
    // The clear policy of the one is put in place of the other's.
    let assets = demo.json["assets"].as_array_mut().unwrap();
    let clear = |asset: &Value| {
        let mut streams = asset["streams"].as_array().unwrap().iter();
        streams
            .position(|stream| stream["policy"] == "clear")
            .unwrap()
    };
    let other = clear(&assets[1]);
    let other = assets[1]["streams"][other].clone();
    let own = clear(&assets[0]);
    assets[0]["streams"][own] = other;
    assets.truncate(1);
    let report = load(folder.path(), &demo.json, Protocol::H2, true);
    assert_eq!(report["passed"], false);
    assert!(
        report["compared"]["differing"].as_u64() > Some(0),
        "{report:#}"
    );
}

#[test]
fn saturation_fetches_whole_segments_over_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let asset = demo.assets().swap_remove(0);
    let trust = Trust::read(Path::new(demo.base("ca"))).unwrap();
    for (protocol, listener) in [
        (Protocol::H1, "origin"),
        (Protocol::H2, "origin"),
        (Protocol::H1, "origin_tls"),
        (Protocol::H2, "origin_tls"),
        (Protocol::H3, "origin_tls"),
    ] {
        for policy in ["clear", "cbcs"] {
            let mpd = format!("{}/v1/{asset}/{policy}/main.mpd", demo.base("origin"));
            let mut found = representations(&mpd, &curl(&[&mpd]).text()).into_iter();
            let picture = found.find(|found| found.id.starts_with('v')).unwrap();
            let lens: Vec<u64> = picture
                .segments
                .iter()
                .map(|url| curl(&[url]).whole().len() as u64)
                .collect();
            let base = (demo.base("origin"), demo.base(listener));
            let urls = picture
                .segments
                .iter()
                .map(|url| url.replace(base.0, base.1));
            let saturation = Saturation {
                protocol,
                urls: urls.map(|url| url.parse().unwrap()).collect(),
                connections: NonZeroUsize::new(4).unwrap(),
                streams: NonZeroUsize::new(2).unwrap(),
                threads: NonZeroUsize::MIN,
                duration: Duration::from_secs(1),
                trust: trust.clone(),
                server: Some(Processes::of([demo.process.0.id()])),
            };
            let measured = saturate::run(&saturation).unwrap();
            let what = format!("{policy} over {protocol:?} by {listener}: {measured:?}");
            assert_eq!((measured.errors, measured.reopened), (0, 0), "{what}");
            assert!(measured.requests > lens.len() as u64, "{what}");
            let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
            assert!(measured.bytes >= measured.requests * least, "{what}");
            // Beside whole answers only those that the end of the run cut: as many as were under way.
            assert!(measured.bytes <= (measured.requests + 8) * most, "{what}");
            assert!(measured.server.unwrap().cpu > Duration::ZERO, "{what}");
        }
    }
}

/// Runs viewers for long enough that each plays every policy of a short title.
fn load(folder: &Path, target: &Value, protocol: Protocol, tls: bool) -> Value {
    let file = folder.join("target.json");
    fs::write(&file, target.to_string()).unwrap();
    let scenario = Scenario {
        viewers: 8,
        protocol,
        tls,
        duration: Duration::from_secs(3),
        sample_every: 2,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let run = scenario::run(scenario, Target::read(&file).unwrap());
    serde_json::to_value(runtime.block_on(run).unwrap()).unwrap()
}
