//! How a service knows that it is this server which asks: by a client certificate, or by the signature of an RSA key.
//! Signatures of an AES key and grants are checked in `upstreams.rs`.

#[path = "../../../tests/authority/mod.rs"]
mod authority;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conf::{SecretSource, UpstreamKind, UpstreamPlace, UpstreamSettings};
use rcgen::ExtendedKeyUsagePurpose;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{PrivateKey, PublicKey};
use sha1::Sha1;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use self::authority::Authority;
use super::upstreams::{StandIn, answer, asked, rig, widevine};
use super::*;

#[tokio::test]
async fn by_tls_a_service_and_this_server_prove_to_each_other_who_they_are() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(authority.server());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    // What clients showed of whom a request was read.
    let shown = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&shown);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let peer = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            asked(&mut stream).await;
            noted.lock().unwrap().push(peer);
            stream.write_all(&answer(200, "a licence")).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let identity = |name: &str, of: &Authority| {
        let (certificate, key) = of.vouch(ExtendedKeyUsagePurpose::ClientAuth);
        let key = file(&format!("{name}.key"), key.serialize_pem());
        let chain = file(&format!("{name}.pem"), certificate.pem());
        ((chain, SecretSource::file(key)), certificate.der().to_vec())
    };
    let (ours, certificate) = identity("ours", &authority);
    let stranger = Authority::new();
    let (theirs, _) = identity("theirs", &stranger);
    let ca = file("ca.pem", authority.issuer.pem());
    let other_ca = file("other.pem", stranger.issuer.pem());
    let stand_in = StandIn::saying("").await;
    for (ca_file, identity, taken) in [
        (&ca, Some(ours.clone()), true),
        (&ca, None, false),
        (&ca, Some(theirs), false),
        (&other_ca, Some(ours), false),
    ] {
        let upstream = UpstreamSettings {
            place: UpstreamPlace::Url {
                tls: true,
                authority: place.clone(),
                path: "/license".to_owned(),
                ca_file: ca_file.clone(),
                identity,
            },
            // A handshake takes its time where others use the processor.
            timeout: Duration::from_secs(10),
            ..stand_in.upstream(UpstreamKind::Vendor)
        };
        let rig = rig(&[upstream]);
        let path = format!("/license/widevine/film?kid={VIDEO}");
        let reply = rig
            .call(Method::POST, &path, Some(&token(|_| ())), "challenge")
            .await;
        match taken {
            true => assert_eq!(
                (reply.status, &*reply.body),
                (StatusCode::OK, &b"a licence"[..])
            ),
            false => assert_eq!(reply.kind(), "license-service-unavailable"),
        }
    }
    assert_eq!(*shown.lock().unwrap(), [certificate]);
}

#[tokio::test]
async fn a_widevine_service_verifies_the_signature_of_an_rsa_key() {
    let pem = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/upstream/testdata/signer.pem");
    let private = PrivateKey::from_pkcs8_pem(&std::fs::read_to_string(&pem).unwrap()).unwrap();
    let verifying = rsa::pss::VerifyingKey::<Sha1>::new_with_salt_len(PublicKey::from(private), 20);
    let service = StandIn::new(move |seen| {
        let envelope = seen.json();
        let field = |name: &str| STANDARD.decode(envelope[name].as_str().unwrap()).unwrap();
        let (request, signature) = (field("request"), field("signature"));
        let is_true = envelope["signer"] == "me"
            && rsa::pss::Signature::try_from(&signature[..]).is_ok_and(|signature| {
                rsa::signature::Verifier::verify(&verifying, &request, &signature).is_ok()
            });
        let request: Value = serde_json::from_slice(&request).unwrap();
        let specs = &request["content_key_specs"];
        Some(
            match is_true && specs[0]["key"] == STANDARD.encode(key_of(VIDEO)) {
                true => widevine(b"a licence"),
                false => answer(200, r#"{"status":"SIGNATURE_FAILED"}"#),
            },
        )
    })
    .await;
    let aes = service.upstream(UpstreamKind::Widevine);
    let rsa = UpstreamSettings {
        signer: Some(("me".to_owned(), SecretSource::file(pem))),
        ..aes.clone()
    };
    let path = format!("/license/widevine/film?kid={VIDEO}");
    for (upstream, reason) in [(rsa, "granted"), (aes, "upstream_refused")] {
        let rig = rig(&[upstream]);
        rig.call(Method::POST, &path, Some(&token(|_| ())), "challenge")
            .await;
        assert_eq!(rig.last_reason(), reason);
    }
}
