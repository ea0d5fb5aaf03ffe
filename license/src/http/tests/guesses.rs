//! Over a keystore as it is: what one viewer asks for does not take the keys of the others.

use keystore::Local;
use keystore::testing;
use keystore_types::{Generation, KeyContext, SUBSAMPLE_RULE};

use super::*;

/// A keystore with little budget whose licence server is granted `film` and `other`, a key of each, and who asks it.
async fn rig() -> (Rig, Local, [KeyId; 2], tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = testing::settings(folder.path());
    settings.budget = conf::BudgetSettings {
        uses: 600,
        keys: 64,
        denials: 16,
    };
    let caller = settings.callers.get_mut("license").unwrap();
    caller.assets = vec!["film".to_owned(), "other".to_owned()];
    let local = Local::open(&settings, Arc::new(keystore::SystemClock)).await;
    let local = local.unwrap();
    let operator = testing::operator(&local);
    operator.init("correct horse".into()).await.unwrap();
    let contexts = ["film", "other"].map(|asset| KeyContext {
        tenant: "default".to_owned(),
        asset: asset.parse().unwrap(),
        label: Label::Sd,
        scheme: Scheme::Cbcs,
        subsample_rule: SUBSAMPLE_RULE,
        generation: Generation {
            sources: [7; 32],
            number: 0,
        },
    });
    let request = LeaseRequest {
        contexts: contexts.to_vec(),
    };
    let made = testing::origin(&local).lease(request).await.unwrap();
    let caller = keystore::capability::Caller::configured(&settings, "license").unwrap();
    let keystore: Arc<dyn Keystore> = local.handle(caller);
    let bearer = header::AUTHORIZATION;
    let upstreams = Upstreams::open(&[], &CertificateSettings::default()).unwrap();
    let rig = Rig::of(true, bearer, upstreams, &no_rules(), |parts| {
        parts.keys = KeyBook::new(Arc::clone(&keystore));
        parts.keystore = keystore;
    });
    let keys = [made.keys[0].key_id, made.keys[1].key_id];
    (rig, local, keys, folder)
}

#[tokio::test]
async fn a_viewer_who_guesses_key_ids_stops_nobody() {
    let (rig, _keystore, [film, other], _folder) = rig().await;
    let guesser = token(|_| ());
    for byte in 0..20 {
        let guesses: Vec<_> = (0..60)
            .map(|number| {
                let mut id = [byte; 16];
                id[15] = number;
                KeyId::new(id)
            })
            .collect();
        let reply = rig.clear_key("film", &guesser, &guesses).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert_eq!(rig.last_reason(), "keys_unknown");
    }
    for (asset, key_id) in [("film", film), ("other", other)] {
        let plays = token(|claims| claims.assets = Some(assets(&[asset])));
        let reply = rig.clear_key(asset, &plays, &[key_id]).await;
        assert_eq!(reply.status, StatusCode::OK, "{asset}");
    }
}

#[tokio::test]
async fn a_viewer_who_asks_for_assets_that_this_server_was_not_granted_stops_nobody() {
    let (rig, _keystore, [film, _], _folder) = rig().await;
    let everything = token(|claims| claims.assets = Some(AssetGrant::All));
    for number in 0..40 {
        let asset = format!("title-{number}");
        let reply = rig.clear_key(&asset, &everything, &[UNKNOWN]).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert_eq!(rig.last_reason(), "keystore_denied");
    }
    let reply = rig.clear_key("film", &token(|_| ()), &[film]).await;
    assert_eq!(reply.status, StatusCode::OK);
}
