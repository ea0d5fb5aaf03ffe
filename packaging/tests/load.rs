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
use loadtest::comparison::{Comparison, Round};
use loadtest::host::Processes;
use loadtest::load::Load;
use loadtest::report::Report;
use loadtest::saturate::{self, Saturation};
use loadtest::scenario::Scenario;
use loadtest::target::Target;
use serde_json::Value;

/// Every protocol with every kind of listener that speaks it.
const WAYS: [(Protocol, bool); 5] = [
    (Protocol::H1, true),
    (Protocol::H2, true),
    (Protocol::H3, true),
    (Protocol::H1, false),
    (Protocol::H2, false),
];

#[test]
fn viewers_get_the_same_samples_over_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    for (protocol, tls) in WAYS {
        let report = load(folder.path(), &demo.json, &hurry(protocol, tls));
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

/// Shortened, sped up and, where hundreds would come, thinned out: whether they do what they say, not how much.
#[test]
fn every_scenario_passes_over_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let media = folder.path().join("media");
    let title = appliance::project().join("packaging/demo/title");
    let ladder = ["180", "360", "eng", "fra"].as_slice();
    for (asset, files) in [("film", ladder), ("other", &["180"]), ("third", &["180"])] {
        fs::create_dir_all(media.join(asset)).unwrap();
        for file in files {
            let name = format!("castellum-{file}.mp4");
            fs::copy(title.join(&name), media.join(asset).join(name)).unwrap();
        }
    }
    let demo = Demo::start(folder.path(), &["--media", media.to_str().unwrap()]);
    let scenarios = appliance::project().join("loadtest/scenarios");
    let mut names = Vec::new();
    for entry in fs::read_dir(scenarios).unwrap() {
        let whole = Scenario::read(&entry.unwrap().path()).unwrap();
        for (protocol, tls) in [
            (Protocol::H1, false),
            (Protocol::H2, true),
            (Protocol::H3, true),
        ] {
            let mut scenario = whole.clone();
            (scenario.protocol, scenario.tls) = (protocol, tls);
            scenario.duration = Duration::from_millis(1500);
            scenario.set_pace(20.0);
            scenario.multiply(match scenario.name.as_str() {
                "live-start" | "licence-storm" => 0.3,
                _ => 3.0,
            });
            let what = format!("{} over {protocol:?}", scenario.name);
            let report = load(folder.path(), &demo.json, &scenario);
            assert_eq!(report["passed"], true, "{what}: {report:#}");
            assert!(
                report["server"]["cpu_seconds"].as_f64() > Some(0.0),
                "{what}: {report:#}"
            );
            for group in report["groups"].as_array().unwrap() {
                assert!(group["arrived"].as_u64() > Some(0), "{what}: {group}");
                assert_eq!(
                    (&group["failed"], &group["shed"]),
                    (&0.into(), &0.into()),
                    "{what}: {group}"
                );
            }
        }
        names.push(whole.name);
    }
    names.sort_unstable();
    let all = [
        "cold-catalogue",
        "licence-storm",
        "live-start",
        "long-tail",
        "mixed",
        "seek-heavy",
        "steady",
    ];
    assert_eq!(names, all);
}

#[test]
fn viewers_notice_a_refused_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(folder.path(), &[]);
    let forged = demo.base("token").replace("eyJ0", "eyJh");
    demo.json["token"] = Value::String(forged);
    let report = load(folder.path(), &demo.json, &hurry(Protocol::H2, true));
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
    let report = load(folder.path(), &demo.json, &hurry(Protocol::H2, true));
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
            assert!(measured.requests > 8, "{what}");
            let (least, most) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
            assert!(measured.bytes >= measured.requests * least, "{what}");
            // Beside whole answers only those that the end of the run cut: as many as were under way.
            assert!(measured.bytes <= (measured.requests + 8) * most, "{what}");
            assert!(measured.server.unwrap().cpu > Duration::ZERO, "{what}");
        }
    }
}

#[test]
fn a_server_compared_with_itself_has_figures_for_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Demo::start(folder.path(), &[]);
    let mpd = format!(
        "{}/v1/{}/cbcs/main.mpd",
        demo.base("origin"),
        demo.assets()[0]
    );
    let found = representations(&mpd, &curl(&[&mpd]).text());
    let saturation = Saturation {
        protocol: Protocol::H1,
        urls: found[0]
            .segments
            .iter()
            .map(|url| url.parse().unwrap())
            .collect(),
        connections: NonZeroUsize::new(4).unwrap(),
        streams: NonZeroUsize::MIN,
        threads: NonZeroUsize::MIN,
        duration: Duration::from_secs(1),
        trust: Trust::DangerAnyone,
        server: Some(Processes::of([demo.process.0.id()])),
    };
    let mut urls = Comparison::new("a".into(), "b".into());
    let mut viewers = Comparison::new("a".into(), "b".into());
    for _ in 0..2 {
        let measure = || Round::from(&saturate::run(&saturation).unwrap());
        urls.add(measure(), measure());
        let mut scenario = hurry(Protocol::H2, true);
        scenario.duration = Duration::from_secs(1);
        let measure = || Round::from(&report(folder.path(), &demo.json, &scenario));
        viewers.add(measure(), measure());
    }
    for comparison in [urls, viewers] {
        let report = comparison.report();
        assert!(report.passed(), "{report}");
        let json = serde_json::to_value(&report).unwrap();
        let measures = json["measures"].as_array().unwrap();
        assert_eq!(
            measures.len(),
            6,
            "bytes, requests, both by processor time, two quantiles: {json:#}"
        );
        for measure in measures {
            assert!(
                measure["ratio_of_medians"].as_f64() > Some(0.0),
                "{measure}"
            );
            let pairs = &measure["ratio_of_pairs"];
            assert!(pairs["min"].as_f64() <= pairs["max"].as_f64(), "{measure}");
        }
    }
}

/// Viewers who play every policy of a short title as fast as they can, and compare every second turn.
fn hurry(protocol: Protocol, tls: bool) -> Scenario {
    let text = r#"
        name = "hurry"
        description = "Every policy in turn."
        seconds = 2
        [[groups]]
        name = "viewers"
        at_most = 8
        verify = 0.5
        arrivals = { shape = "burst", count = 8, within = 0.1 }
        behaviour = { kind = "hurry", start = "anywhere" }
    "#;
    Scenario {
        protocol,
        tls,
        ..Scenario::parse(text).unwrap()
    }
}

fn report(folder: &Path, target: &Value, scenario: &Scenario) -> Report {
    let file = folder.join("target.json");
    fs::write(&file, target.to_string()).unwrap();
    let target = Target::read(&file).unwrap();
    let server = Processes::serving(&target.listeners(scenario.tls)).unwrap();
    let load = Load::new(scenario.clone(), target, server).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(load.run()).unwrap()
}

fn load(folder: &Path, target: &Value, scenario: &Scenario) -> Value {
    serde_json::to_value(report(folder, target, scenario)).unwrap()
}
