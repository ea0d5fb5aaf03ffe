//! Checkpoints, and verifying with them, here or on another machine.

use std::fs::File;
use std::path::Path;

use keystore::audit::{self, Checkpoint};
use keystore_client::admin::{CheckpointText, Finding, Report};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Serialize)]
pub(super) struct PublicKey {
    pub(super) public_key: String,
}

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))
}

pub(super) fn read_checkpoint(path: &Path) -> Result<CheckpointText, Failure> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| Failure::failed(format!("{} is no checkpoint: {error}", path.display())))
}

/// Walks a copy of a log, of which nothing is known but whose signatures it should bear.
pub(super) fn verify_offline(
    log: &Path,
    key: &Path,
    checkpoint: Option<&CheckpointText>,
) -> Result<Report, Failure> {
    let key = audit::PublicKey::from_pem(&read(key)?)
        .map_err(|what| Failure::failed(format!("{}: {what}", key.display())))?;
    let mut checkpoints = Vec::new();
    if let Some(text) = checkpoint {
        let checkpoint = Checkpoint::try_from(text).map_err(Failure::failed)?;
        if !checkpoint.is_by(&key) {
            return Err(Failure::failed(
                "the public key's owner has not signed the checkpoint",
            ));
        }
        checkpoints.push(checkpoint);
    }
    let cannot = |error| Failure::failed(format!("cannot read {}: {error}", log.display()));
    let file = File::open(log).map_err(cannot)?;
    let len = file.metadata().map_err(cannot)?.len();
    let expected = audit::Expected {
        key: Some(key),
        anchor: None,
        checkpoints: &checkpoints,
    };
    let walk = audit::walk(&file, len, &expected);
    let faults = walk.fault.into_iter().map(|fault| Finding {
        place: "audit".to_owned(),
        sequence: Some(fault.seq),
        offset: Some(fault.offset),
        what: fault.what,
    });
    Ok(Report {
        audit_records: walk.head.seq,
        audit_signed: walk.signed,
        keys: 0,
        unwrapped: 0,
        faults: faults.collect(),
    })
}

pub(super) fn report_text(report: &Report) -> String {
    let mut text = format!(
        "{} audit records checked, signed up to {}; {} keys checked, {} unwrapped\n",
        report.audit_records, report.audit_signed, report.keys, report.unwrapped
    );
    for fault in &report.faults {
        let at = match (fault.sequence, fault.offset) {
            (Some(record), Some(byte)) => format!(" record {record}, byte {byte}"),
            (Some(record), None) => format!(" record {record}"),
            (None, _) => String::new(),
        };
        text.push_str(&format!("FAULT {}{at}: {}\n", fault.place, fault.what));
    }
    text
}
