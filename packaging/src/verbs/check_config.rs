//! `castellum check-config`: all faults of a configuration and of the keys that it names, with no side effect.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use conf::{Fault, IssuerKeys, SecretSource, Settings, TlsIdentity, TokenAlgorithm};
use license::entitlement::Issuer;
use serde::Serialize;

use super::ConfigFile;
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  castellum check-config /etc/castellum/castellum.toml")]
pub(crate) struct Args {
    /// The same as -c FILE
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Serialize)]
struct Answer {
    ok: bool,
    findings: Vec<Finding>,
    /// What a sound configuration had better not have.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Finding {
    key: String,
    message: String,
    help: Option<String>,
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
}

impl From<&Fault> for Finding {
    fn from(fault: &Fault) -> Self {
        let place = fault.place.as_ref();
        let (line, column) = place.map(conf::Place::line_column).unzip();
        Self {
            key: fault.key.clone(),
            message: fault.message.clone(),
            help: fault.help.clone(),
            file: place.map(|place| place.source.name.clone()),
            line,
            column,
        }
    }
}

pub(crate) fn run(args: &Args, output: Output) -> Result<(), Failure> {
    let file = args.file.as_deref().or(args.config.path());
    match conf::load_and(file, faults_beyond) {
        Ok(settings) => {
            let answer = Answer {
                ok: true,
                findings: Vec::new(),
                warnings: exposed(&settings),
            };
            if !output.is_json() {
                for warning in &answer.warnings {
                    eprintln!("warning: {warning}");
                }
            }
            output.say(&answer, |_| "the configuration is sound".to_owned())
        }
        Err(faults) if output.is_json() => {
            let findings: Vec<Finding> = faults.iter().map(Finding::from).collect();
            let count = findings.len();
            let answer = Answer {
                ok: false,
                findings,
                warnings: Vec::new(),
            };
            output.say(&answer, |_| String::new())?;
            Err(Failure::new(Exit::Config, format!("{count} findings")))
        }
        Err(faults) => Err(faults.into()),
    }
}

/// What the roles would find wrong at their start: a log filter that is none, issuers whose key is none.
fn faults_beyond(settings: &Settings) -> Vec<Fault> {
    let filter = logging::filter(&settings.log).err().map(|error| Fault {
        help: Some(logging::FILTER_HELP.to_owned()),
        ..Fault::of("log.filter", error)
    });
    let issuers = settings.license.issuers.iter().enumerate();
    let issuers = issuers.filter_map(|(index, issuer)| {
        let error = Issuer::load(issuer, &settings.license.state_dir).err()?;
        let key = match issuer.keys {
            IssuerKeys::One(_) => "key_file",
            IssuerKeys::Set(_) => "jwks_file",
            IssuerKeys::Fetched(_) => "ca_file",
        };
        Some(Fault::of(format!("license.issuers[{index}].{key}"), error))
    });
    filter.into_iter().chain(issuers).collect()
}

/// The secrets that every user of the host can read.
fn exposed(settings: &Settings) -> Vec<String> {
    fn key(tls: &TlsIdentity) -> Option<&SecretSource> {
        match tls {
            TlsIdentity::Files { key, .. } => Some(key),
            TlsIdentity::SelfSigned { .. } => None,
        }
    }
    // The keys of the other algorithms are public.
    let issuers = (settings.license.issuers.iter())
        .filter(|issuer| issuer.algorithms.contains(&TokenAlgorithm::Hs256))
        .filter_map(|issuer| match &issuer.keys {
            IssuerKeys::One(source) | IssuerKeys::Set(source) => Some(source),
            IssuerKeys::Fetched(_) => None,
        });
    let secrets = [
        key(&settings.origin.tls),
        key(&settings.license.tls),
        settings.keystore.passphrase.as_ref(),
        settings.keystore.key.as_ref(),
        (settings.keystore.pkcs11.as_ref()).map(|token| &token.pin),
        (settings.keystore.transit.as_ref()).map(|service| &service.token),
    ];
    (secrets.into_iter().flatten())
        .chain(issuers)
        .filter(|secret| {
            fs::metadata(secret.path())
                .is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
        })
        .map(|secret| format!("{secret} is a secret that every user can read: chmod o= it"))
        .collect()
}
