//! The root by a PKCS#11 token: SoftHSM, and a module in front of it that misbehaves (`examples/token_shim.rs`).
//!
//! Cannot show what a maker's hardware does; it shows that none of it gets further than its own process.
#![expect(clippy::unwrap_used, reason = "a test's panic is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conf::{KeystoreSettings, Pkcs11Settings, SecretSource};
use keystore::capability::Caller;
use keystore::{Local, SystemClock, testing};
use keystore_client::SealState;
use keystore_client::admin::{Admin, AdminError, Keeping, UnlockMethod};
use tempfile::TempDir;

const PIN: &str = "a PIN of the tests";

/// How long anything may take to come about on the slowest machine before a test says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

/// A token of SoftHSM's behind the shim, and the settings of a keystore whose root it keeps.
struct Token {
    folder: TempDir,
    settings: KeystoreSettings,
}

impl Token {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("tokens")).unwrap();
        let tokens = path.join("tokens").display().to_string();
        let conf = format!("directories.tokendir = {tokens}\nobjectstore.backend = file\n");
        std::fs::write(path.join("softhsm2.conf"), conf).unwrap();
        let made = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", path.join("softhsm2.conf"))
            .args(["--init-token", "--free", "--label", "castellum test"])
            .args(["--so-pin", "an officer's PIN", "--pin", PIN])
            .output()
            .expect("softhsm2 is installed, as packaging/setup/need.sh test sees to");
        assert!(made.status.success(), "{made:?}");
        // A copy, so that each test's shim has a mood of its own.
        let module = path.join("libtoken_shim.so");
        std::fs::copy(example("libtoken_shim.so"), &module).unwrap();
        std::fs::write(path.join("pin"), format!("{PIN}\n")).unwrap();
        let mut settings = testing::settings(path);
        settings.init_at_start = true;
        settings.pkcs11 = Some(Pkcs11Settings {
            module,
            token: "castellum test".to_owned(),
            key: "castellum".to_owned(),
            pin: SecretSource::file(path.join("pin")),
            timeout: Duration::from_secs(10),
            process: Some(example("token_process")),
        });
        let token = Self { folder, settings };
        token.becomes("well");
        token
    }

    fn becomes(&self, mood: &str) {
        std::fs::write(self.folder.path().join("mood"), mood).unwrap();
    }

    /// Tries again where another test starts a process just then, which holds a copy of every open file until it runs.
    async fn open(&self) -> Local {
        let began = Instant::now();
        loop {
            match Local::open(&self.settings, Arc::new(SystemClock)).await {
                Ok(local) => return local,
                Err(error) if began.elapsed() > PATIENCE => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// What cargo made of `examples/`, beside this test's own folder.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build -p keystore --examples",
        path.display()
    );
    path
}

fn operator(local: &Local) -> Arc<dyn Admin> {
    local.admin(Caller::operator("operator"))
}

fn state(local: &Local) -> SealState {
    *local.seal_state().borrow()
}

#[tokio::test]
async fn a_token_unseals_and_is_not_asked_again() {
    let token = Token::new();
    drop(token.open().await);
    let local = token.open().await;
    assert_eq!(state(&local), SealState::Unsealed);
    let admin = operator(&local);
    let status = admin.status().await.unwrap();
    assert_eq!(status.stored.unwrap().kept_by, [UnlockMethod::Pkcs11]);
    // What is unsealed needs no token.
    token.becomes("hangs while it is loaded");
    assert_eq!(admin.verify(None).await.unwrap().faults, vec![]);
    assert_eq!(state(&local), SealState::Unsealed);
    // Nor is the module ever in the keystore's own process.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("libtoken_shim") && !maps.contains("softhsm"));
}

/// The token's key is sensitive, not extractable, and was made there: whoever has the token and its PIN uses it, and
/// does not take it away. No call of the keystore gives the root either: `Admin` and `Keystore` have none.
#[tokio::test]
async fn the_root_never_leaves() {
    let token = Token::new();
    let local = token.open().await;
    assert_eq!(state(&local), SealState::Unsealed);
    let module = &token.settings.pkcs11.as_ref().unwrap().module;
    let thief = Command::new(example("token_thief"))
        .arg(module)
        .arg(PIN)
        .output()
        .unwrap();
    let said = String::from_utf8(thief.stdout).unwrap();
    assert!(thief.status.success(), "{said}");
    let attempts: Vec<&str> = said.lines().collect();
    assert_eq!(attempts.len(), 9, "{said}");
    assert_eq!(attempts[0], "value: sensitive");
    assert_eq!(attempts[1], "read: 0 attributes");
    assert!(!said.contains("DONE"), "{said}");

    // A key that could leave is not used, whatever else is right with it.
    token.becomes("has an extractable key");
    let admin = operator(&local);
    admin.seal().await.unwrap();
    let error = admin.unseal_by(UnlockMethod::Pkcs11).await.unwrap_err();
    assert!(error.to_string().contains("could leave"), "{error}");
    assert_eq!(state(&local), SealState::Sealed);
}

#[tokio::test]
async fn a_token_that_fails_yields_no_root() {
    let token = Token::new();
    let local = token.open().await;
    let admin = operator(&local);
    admin.seal().await.unwrap();
    for (mood, refused, said) in [
        ("crashes", false, "no answer"),
        ("vanishes at login", false, "cannot be asked"),
        ("vanishes at decryption", false, "cannot be asked"),
        ("answers an absurd length", false, "no answer"),
        ("answers nothing", true, "0 bytes for a key"),
        ("answers half a key", true, "16 bytes for a key"),
        ("answers another key", true, "does not open the root"),
    ] {
        token.becomes(mood);
        let error = admin.unseal_by(UnlockMethod::Pkcs11).await.unwrap_err();
        assert_eq!(
            matches!(error, AdminError::Refused(_)),
            refused,
            "{mood}: {error}"
        );
        assert!(error.to_string().contains(said), "{mood}: {error}");
        assert!(!error.to_string().contains(PIN), "{mood}: {error}");
        assert_eq!(state(&local), SealState::Sealed, "{mood}");
    }
    // Who hangs after the answer has answered.
    for mood in ["hangs at the end", "well"] {
        token.becomes(mood);
        admin.unseal_by(UnlockMethod::Pkcs11).await.unwrap();
        assert_eq!(state(&local), SealState::Unsealed, "{mood}");
        admin.seal().await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_hangs_is_given_up() {
    let mut token = Token::new();
    drop(token.open().await);
    token.becomes("hangs at login");
    // No call here has an answer: each takes all of its time.
    token.settings.pkcs11.as_mut().unwrap().timeout = Duration::from_secs(1);
    let local = token.open().await;
    let admin = operator(&local);
    // From here on it is tried when the test says so.
    admin.seal().await.unwrap();
    for mood in [
        "hangs while it is loaded",
        "hangs at login",
        "hangs at decryption",
    ] {
        token.becomes(mood);
        let asked = tokio::time::timeout(PATIENCE, admin.unseal_by(UnlockMethod::Pkcs11));
        let error = asked.await.expect("it ends in time").unwrap_err();
        assert!(!matches!(error, AdminError::Refused(_)), "{mood}: {error}");
        assert!(error.to_string().contains("killed"), "{mood}: {error}");
        assert_eq!(state(&local), SealState::Sealed, "{mood}");
    }
}

/// An operator who seals in an emergency waits neither for the token nor for whoever asks it.
#[tokio::test]
async fn a_seal_waits_for_no_token() {
    let token = Token::new();
    let local = token.open().await;
    let admin = operator(&local);
    token.becomes("hangs at login");
    let asking = tokio::spawn(async move { admin.unseal_by(UnlockMethod::Pkcs11).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sealing = tokio::spawn({
        let admin = operator(&local);
        async move { admin.seal().await }
    });
    let mut state = local.seal_state();
    let sealed = state.wait_for(|state| *state == SealState::Sealed);
    let sealed = tokio::time::timeout(PATIENCE, sealed).await;
    assert!(sealed.is_ok(), "it waits");
    assert!(!asking.is_finished());
    assert!(asking.await.unwrap().is_err());
    sealing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_root_that_a_token_would_not_give_back_is_not_kept() {
    for mood in [
        "wraps garbage",
        "answers another key",
        "has an extractable key",
    ] {
        let token = Token::new();
        token.becomes(mood);
        let local = token.open().await;
        assert_eq!(state(&local), SealState::Uninitialised, "{mood}");
        let admin = operator(&local);
        assert_eq!(admin.status().await.unwrap().stored.unwrap().kept_by, []);
        token.becomes("well");
        let keeping = Keeping {
            methods: vec![UnlockMethod::Pkcs11],
            shares: None,
        };
        assert_eq!(admin.init_with(keeping, None).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_token_that_comes_back_unseals_it() {
    let token = Token::new();
    drop(token.open().await);
    token.becomes("vanishes at login");
    let local = token.open().await;
    assert_eq!(state(&local), SealState::Sealed);
    token.becomes("well");
    let mut state = local.seal_state();
    let unsealed = state.wait_for(|state| *state == SealState::Unsealed);
    tokio::time::timeout(PATIENCE, unsealed)
        .await
        .unwrap()
        .unwrap();
}

/// A token locks itself after a few wrong PINs.
#[tokio::test]
async fn a_wrong_pin_is_tried_once() {
    let token = Token::new();
    drop(token.open().await);
    let pin = token.folder.path().join("pin");
    std::fs::write(&pin, "another PIN\n").unwrap();
    let local = token.open().await;
    assert_eq!(state(&local), SealState::Sealed);
    // It would unseal if it were tried again.
    std::fs::write(&pin, PIN).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&local), SealState::Sealed);
    operator(&local)
        .unseal_by(UnlockMethod::Pkcs11)
        .await
        .unwrap();
    for wrong in ["", &"9".repeat(256)] {
        std::fs::write(&pin, wrong).unwrap();
        let error = operator(&local).unseal_by(UnlockMethod::Pkcs11).await;
        assert!(matches!(error, Err(AdminError::Refused(_))), "{error:?}");
    }
}

#[tokio::test]
async fn another_token_or_none_is_named() {
    let mut token = Token::new();
    drop(token.open().await);
    let settings = token.settings.pkcs11.as_mut().unwrap();
    settings.token = "another".to_owned();
    let local = token.open().await;
    let error = operator(&local).unseal_by(UnlockMethod::Pkcs11).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`another`") && error.contains("label"),
        "{error}"
    );
    drop(local);

    let settings = token.settings.pkcs11.as_mut().unwrap();
    settings.module = Path::new("/nonexistent/module.so").to_owned();
    let local = token.open().await;
    let error = operator(&local).unseal_by(UnlockMethod::Pkcs11).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/module.so"), "{error}");
}
