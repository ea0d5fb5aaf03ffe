//! Where certificates come from, what is said of those that cannot be used, and their replacement in service.
#![expect(clippy::unwrap_used, reason = "in what the tests share, too")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use conf::{ListenerSettings, SecretSource, TlsIdentity};
use origin_front::tls::DevCa;
use origin_front::{Limits, Tls};
use support::{LIMITS, Server, TLS};

/// A certificate and its key, each in a file of its own.
fn pair(folder: &Path, name: &str) -> (std::path::PathBuf, SecretSource) {
    let home = folder.join(name);
    Tls::self_signed(&home, &[]).unwrap();
    let both = fs::read_to_string(home.join("self-signed.pem")).unwrap();
    let split = both.find("-----BEGIN PRIVATE KEY").unwrap();
    let (certificate, key) = (home.join("chain.pem"), home.join("key.pem"));
    fs::write(&certificate, &both[..split]).unwrap();
    fs::write(&key, &both[split..]).unwrap();
    (certificate, SecretSource::file(key))
}

#[test]
fn faults_name_the_file_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair(folder.path(), "one");
    let (_, other_key) = pair(folder.path(), "two");
    Tls::from_files(&certificate, &key).unwrap();

    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let absent = folder.path().join("absent.pem");
    let empty = write("empty.pem", "");
    let torn = write("torn.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let wrong = write(
        "wrong.pem",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    );
    let sealed = write(
        "sealed.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let no_key = write(
        "no-key.pem",
        "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
    );
    let key_at = |path: &Path| SecretSource::file(path);
    for (certificate, key, file, words) in [
        (&absent, &key, "absent.pem", "No such file"),
        (&empty, &key, "empty.pem", "no BEGIN CERTIFICATE"),
        (&torn, &key, "torn.pem", "PEM is broken"),
        (&wrong, &key, "wrong.pem", "first certificate"),
        (&certificate, &key_at(&absent), "absent.pem", "No such file"),
        (
            &certificate,
            &key_at(&empty),
            "empty.pem",
            "no BEGIN PRIVATE KEY",
        ),
        (&certificate, &key_at(&sealed), "sealed.pem", "encrypted"),
        (&certificate, &key_at(&no_key), "no-key.pem", "private key"),
        (&certificate, &other_key, "two/key.pem", "does not belong"),
    ] {
        let fault = Tls::from_files(certificate, key).unwrap_err().to_string();
        assert!(fault.contains(file), "{fault}");
        assert!(fault.contains(words), "{fault}");
        assert!(!fault.contains("MIIB"), "quotes the file: {fault}");
    }
}

#[test]
fn a_self_signed_certificate_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let identity = TlsIdentity::SelfSigned {
        state_dir: folder.path().join("state"),
    };
    Tls::load(&identity, &["origin.example".to_owned()]).unwrap();
    let file = folder.path().join("state/self-signed.pem");
    let first = fs::read(&file).unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    Tls::load(&identity, &[]).unwrap();
    assert_eq!(fs::read(&file).unwrap(), first);
    assert_eq!(
        fs::read_dir(folder.path().join("state")).unwrap().count(),
        1
    );
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_in_service() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = pair(folder.path(), "old");
    let tls = Tls::from_files(&certificate, &key).unwrap();
    let settings = ListenerSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        transport: TLS,
    };
    let server = Server::start_tls(&settings, &tls, DevCa::new().unwrap(), Limits::new(LIMITS));
    let served = || support::leaf(&server);
    let old = served().await;

    // A pair that does not fit changes nothing.
    let (new_certificate, new_key) = pair(folder.path(), "new");
    fs::copy(&new_certificate, &certificate).unwrap();
    tls.reload().unwrap_err();
    assert_eq!(served().await, old);

    fs::copy(new_key.path(), key.path()).unwrap();
    tls.reload().unwrap();
    assert_ne!(served().await, old);
}
