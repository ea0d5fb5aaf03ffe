//! What a FairPlay module is told of a policy, and which module is told it. Modules are stand-ins as in `upstreams.rs`, which
//! says what these cannot catch.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::{UpstreamKind, UpstreamPlace, UpstreamSettings};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use super::upstreams::{Seen, StandIn, answer, asked, ckc, spc};
use super::*;
use crate::policy::System;
use crate::policy::terms::{FairPlayHdcp, Renewal};

fn module_answer() -> Vec<u8> {
    let body = json!({ "ckc": STANDARD.encode(ckc()) }).to_string();
    answer(200, body)
}

/// A server with this policy, `offline`.
fn rig(upstreams: &[UpstreamSettings], policy: PolicyRule) -> Rig {
    let upstreams = Upstreams::open(upstreams, &CertificateSettings::default()).unwrap();
    let rules = no_rules();
    Rig::of(true, header::AUTHORIZATION, upstreams, &rules, |parts| {
        parts.rules.policies.insert("offline".to_owned(), policy);
    })
}

async fn ask(rig: &Rig, asset: &str, key_id: KeyId) -> Reply {
    let token = token(|claims| {
        claims.assets = Some(AssetGrant::All);
        claims.policy = Some("offline".to_owned());
    });
    let path = format!("/license/fairplay/{asset}?kid={key_id}");
    rig.call(Method::POST, &path, Some(&token), spc()).await
}

fn pictures(rule: KeyRule) -> PolicyRule {
    PolicyRule {
        keys: BTreeMap::from([(Label::Sd, rule)]),
        ..PolicyRule::default()
    }
}

#[tokio::test]
async fn a_module_at_a_unix_socket_is_told_the_terms_of_a_kept_licence() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ksm.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = asked(&mut stream).await;
            noted.lock().unwrap().push(request);
            stream.write_all(&module_answer()).await.unwrap();
        }
    });
    let nowhere = StandIn::saying("").await;
    let upstream = UpstreamSettings {
        place: UpstreamPlace::Socket {
            socket,
            path: "/ksm?room=1".to_owned(),
        },
        ..nowhere.upstream(UpstreamKind::FairPlay)
    };
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    let policy = PolicyRule {
        terms: Terms {
            persistent: true,
            begins: Some(UnixTime::from_seconds(NOW.as_seconds() - 9)),
            expires: Some(NOW.plus(Duration::from_secs(7200))),
            license_duration: minutes(60),
            rental_duration: minutes(30),
            playback_duration: minutes(20),
            renewal: Some(Renewal {
                after: Duration::from_secs(50),
                retry: Duration::from_secs(5),
                recovery: Duration::from_secs(70),
            }),
        },
        ..pictures(KeyRule {
            hdcp: Hdcp::V2_2,
            ..KeyRule::default()
        })
    };
    let rig = rig(&[upstream], policy);
    let reply = ask(&rig, "film", VIDEO).await;
    assert_eq!((reply.status, &*reply.body), (StatusCode::OK, &*ckc()));
    let seen = seen.lock().unwrap();
    assert!(seen[0].head.starts_with("POST /ksm?room=1 HTTP/1.1\r\n"));
    assert_eq!(
        seen[0].json()["policy"],
        json!({
            "hdcp": "type1",
            "persistent": true,
            "begins": NOW.as_seconds() - 9,
            "expires": NOW.as_seconds() + 7200,
            "license_duration": 3600,
            "rental_duration": 1800,
            "playback_duration": 1200,
            "renewal": { "after": 50, "retry": 5, "recovery": 70 },
        })
    );
    assert_eq!(nowhere.seen().len(), 0);
}

#[tokio::test]
async fn a_module_is_told_the_stricter_word_of_hdcp_or_nothing_at_all() {
    let module = StandIn::saying(module_answer()).await;
    let free = KeyRule::default();
    for (rule, told) in [
        (free, Some("none")),
        (
            KeyRule {
                hdcp: Hdcp::V1,
                ..free
            },
            Some("type0"),
        ),
        (
            KeyRule {
                hdcp: Hdcp::V2_1,
                fairplay_hdcp: FairPlayHdcp::Type0,
                ..free
            },
            Some("type1"),
        ),
        (
            KeyRule {
                hdcp: Hdcp::V1,
                fairplay_hdcp: FairPlayHdcp::Type1,
                ..free
            },
            Some("type1"),
        ),
        (
            KeyRule {
                hdcp: Hdcp::V2_3,
                ..free
            },
            None,
        ),
        (
            KeyRule {
                no_analogue: true,
                ..free
            },
            None,
        ),
        (
            KeyRule {
                no_digital: true,
                ..free
            },
            None,
        ),
    ] {
        let before = module.seen().len();
        let rig = rig(&[module.upstream(UpstreamKind::FairPlay)], pictures(rule));
        let reply = ask(&rig, "film", VIDEO).await;
        match told {
            Some(told) => {
                assert_eq!(reply.status, StatusCode::OK, "{rule:?}");
                let request = module.seen()[before].json();
                assert_eq!(request["policy"]["hdcp"], told, "{rule:?}");
            }
            None => {
                assert_eq!(reply.kind(), "not-entitled", "{rule:?}");
                assert_eq!(rig.last_reason(), "rules_unmet");
                assert_eq!(module.seen().len(), before);
                assert!(rig.keystore.audit.lock().unwrap().is_empty());
            }
        }
    }
}

/// During a change of the SDK: assets of the new one have a certificate and a module of their own.
#[tokio::test]
async fn an_asset_is_licensed_by_the_modules_that_name_it_or_by_those_that_name_none() {
    let refusing = || StandIn::saying(answer(422, ""));
    let (old, new) = (refusing().await, StandIn::saying(module_answer()).await);
    let gone = StandIn::saying(answer(500, "")).await;
    let of = |module: &StandIn, assets: Option<&[&str]>| UpstreamSettings {
        assets: assets.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
        ..module.upstream(UpstreamKind::FairPlay)
    };
    let settings = [
        of(&old, None),
        of(&gone, Some(&["film", "other"])),
        of(&new, Some(&["film"])),
    ];
    let both = rig(&settings, PolicyRule::default());
    let asked = || [&old, &gone, &new].map(|module| module.seen().len());
    // The first that names it is down, and the next one that does answers.
    assert_eq!(ask(&both, "film", VIDEO).await.status, StatusCode::OK);
    assert_eq!(asked(), [0, 1, 1]);
    let reply = ask(&both, "series", OTHER).await;
    assert_eq!(reply.kind(), "challenge-refused");
    assert_eq!(asked(), [1, 1, 1]);

    // Where each names some, there is nothing at the URLs of others.
    let some = rig(&settings[2..], PolicyRule::default());
    assert_eq!(ask(&some, "film", VIDEO).await.status, StatusCode::OK);
    let reply = ask(&some, "series", OTHER).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(asked(), [1, 1, 2]);

    // What is said of settings alone is what a server does by them.
    let says = |settings: &[UpstreamSettings], system, asset: &str| {
        crate::upstream::answer_for(settings, system, &asset.parse().unwrap()).unwrap()
    };
    assert!(says(&settings, System::FairPlay, "film"));
    assert!(says(&settings, System::FairPlay, "series"));
    assert!(says(&settings[2..], System::FairPlay, "film"));
    assert!(!says(&settings[2..], System::FairPlay, "series"));
    assert!(!says(&settings, System::Widevine, "film"));
}

#[tokio::test]
async fn the_module_of_an_asset_names_the_key_of_its_spcs() {
    let naming = |key_id: KeyId| {
        StandIn::new(move |seen| {
            let reply = match seen.json()["ask"].as_str().unwrap() {
                "asset" => json!({ "asset": key_id }),
                _ => json!({ "ckc": STANDARD.encode(ckc()) }),
            };
            Some(answer(200, reply.to_string()))
        })
    };
    let (general, own) = (naming(AUDIO).await, naming(VIDEO).await);
    let two_steps = |module: &StandIn, assets| UpstreamSettings {
        two_steps: true,
        assets,
        ..module.upstream(UpstreamKind::FairPlay)
    };
    let settings = [
        two_steps(&general, None),
        two_steps(&own, Some(vec!["film".to_owned()])),
    ];
    let rig = rig(&settings, PolicyRule::default());
    let reply = rig
        .call(
            Method::POST,
            "/license/fairplay/film",
            Some(&token(|_| ())),
            spc(),
        )
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(own.seen()[1].json()["key_id"], json!(VIDEO));
    assert_eq!(general.seen().len(), 0);
}
