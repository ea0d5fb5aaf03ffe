//! What shuts the gate of an upstream, kind by kind: what says that the service is broken, and nothing that a viewer can cause.
//!
//! Cannot catch a service that answers garbage as it answers when it is broken, with a 5xx: nothing tells the two apart.

use std::sync::atomic::AtomicU16;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::UpstreamKind;

use super::upstreams::{StandIn, answer, ckc, rig, soap, spc, widevine};
use super::*;

/// More than a stand-in's breaker has patience for.
const OFTEN: usize = 5;

/// A server whose upstream of this kind answers with a status until that is 200.
async fn against(kind: UpstreamKind, status: u16) -> (Rig, StandIn, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let shared = Arc::clone(&status);
    let stand_in = StandIn::new(move |_| {
        let message = "<s:Envelope xmlns:s=\"x\"><s:Body><License/></s:Body></s:Envelope>";
        Some(match shared.load(Ordering::Relaxed) {
            200 => match kind {
                UpstreamKind::Widevine => widevine(b"a licence"),
                UpstreamKind::PlayReady => answer(200, message),
                UpstreamKind::FairPlay => {
                    let ckc = json!({ "ckc": STANDARD.encode(ckc()) });
                    answer(200, ckc.to_string())
                }
                UpstreamKind::Vendor => answer(200, "a licence"),
            },
            status => answer(status, "<html>no</html>"),
        })
    })
    .await;
    (rig(&[stand_in.upstream(kind)]), stand_in, status)
}

async fn ask(rig: &Rig, kind: UpstreamKind) -> Reply {
    let (system, body) = match kind {
        UpstreamKind::Widevine | UpstreamKind::Vendor => ("widevine", b"garbage".to_vec()),
        UpstreamKind::PlayReady => ("playready", soap(VIDEO).into_bytes()),
        UpstreamKind::FairPlay => ("fairplay", spc()),
    };
    let path = format!("/license/{system}/film?kid={VIDEO}");
    rig.call(Method::POST, &path, Some(&token(|_| ())), body)
        .await
}

const KINDS: [UpstreamKind; 4] = [
    UpstreamKind::Widevine,
    UpstreamKind::PlayReady,
    UpstreamKind::FairPlay,
    UpstreamKind::Vendor,
];

#[tokio::test]
async fn what_a_viewer_can_cause_shuts_no_gate() {
    for kind in KINDS {
        for status in [400, 403, 413, 415, 422, 431] {
            let (rig, stand_in, says) = against(kind, status).await;
            for _ in 0..OFTEN {
                let reply = ask(&rig, kind).await;
                assert_eq!(reply.kind(), "challenge-refused", "{kind:?} {status}");
            }
            assert_eq!(stand_in.seen().len(), OFTEN, "{kind:?} {status}");
            says.store(200, Ordering::Relaxed);
            let reply = ask(&rig, kind).await;
            assert_eq!(reply.status, StatusCode::OK, "{kind:?} {status}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_service_shuts_its_gate() {
    for kind in KINDS {
        for (status, code) in [
            (401, "license-service-failed"),
            (404, "license-service-failed"),
            (429, "license-service-unavailable"),
            (503, "license-service-unavailable"),
        ] {
            let (rig, stand_in, says) = against(kind, status).await;
            assert_eq!(ask(&rig, kind).await.kind(), code, "{kind:?} {status}");
            for _ in 1..OFTEN {
                ask(&rig, kind).await;
            }
            assert_eq!(stand_in.seen().len(), 3, "{kind:?} {status}");
            says.store(200, Ordering::Relaxed);
            let reply = ask(&rig, kind).await;
            assert_eq!(reply.kind(), "license-service-unavailable");
        }
    }
}
