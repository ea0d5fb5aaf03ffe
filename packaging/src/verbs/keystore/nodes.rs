//! Other machines: what one needs to be let in, made where it is.

use std::path::{Path, PathBuf};

use keystore_client::wrap::NodeKey;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde::Serialize;

use super::backup::NewFile;
use crate::failure::Failure;

/// What was made.
#[derive(Serialize)]
pub(super) struct Enrolled {
    node: String,
    certificate: PathBuf,
    key_file: PathBuf,
    node_key_file: PathBuf,
    /// The public half, 64 hexadecimal digits.
    node_key: String,
}

#[derive(Serialize)]
pub(super) struct Revoked {
    pub(super) node: String,
}

/// Certificate, key and node key of a machine, in files that were not there.
pub(super) fn enrol(name: &str, folder: &Path) -> Result<Enrolled, Failure> {
    keystore::harden_process();
    let fits = name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= 128
        && (name.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !fits {
        return Err(Failure::usage(format!(
            "`{name}` cannot be a name: begin with a letter or digit and go on with those, '.', '_' and '-'"
        )));
    }
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    let (certificate, key_file, node_key_file) = (path("pem"), path("key"), path("node-key"));
    for path in [&certificate, &key_file, &node_key_file] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::usage(format!(
                "{} is there already: a machine keeps its keys, or move them away",
                path.display()
            )));
        }
    }
    let cannot = |error: rcgen::Error| Failure::failed(format!("no certificate: {error}"));
    let mut parameters = CertificateParams::new([]).map_err(cannot)?;
    (parameters.distinguished_name).push(DnType::CommonName, name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let pair = KeyPair::generate().map_err(cannot)?;
    let made = parameters.self_signed(&pair).map_err(cannot)?;
    let node_key = NodeKey::generate().map_err(Failure::failed)?;
    let write = |path: &Path, text: &str| {
        let mut file = NewFile::create(path)?;
        file.write(text.as_bytes())?;
        file.keep()
    };
    write(&key_file, &zeroize::Zeroizing::new(pair.serialize_pem()))?;
    write(&node_key_file, &node_key.to_text())?;
    write(&certificate, &made.pem())?;
    Ok(Enrolled {
        node: name.to_owned(),
        certificate,
        key_file,
        node_key_file,
        node_key: (node_key.public().iter())
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    })
}

pub(super) fn enrolled_text(enrolled: &Enrolled) -> String {
    let Enrolled {
        node,
        certificate,
        key_file,
        node_key_file,
        node_key,
    } = enrolled;
    format!(
        "Here, below [keystore.core]:\n\n\
         certificate = \"{}\"\nkey_file = \"{}\"\nnode_key_file = \"{}\"\n\n\
         Where the keystore is, with a copy of {}:\n\n\
         [keystore.nodes.{node}]\ncertificate = \"/etc/castellum/nodes/{node}.pem\"\nnode_key = \"{node_key}\"\n\
         may = [\"lease\"]\nassets = []  # those that it serves",
        certificate.display(),
        key_file.display(),
        node_key_file.display(),
        certificate.display(),
    )
}
