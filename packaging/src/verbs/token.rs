//! `castellum token`: entitlement tokens, for those who have no back end yet and for people who look into one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use keystore_types::{AssetId, KeyId};
use license::entitlement::inspect::{Inspection, Verdict, inspect};
use license::entitlement::mint::{Claims, mint_as};
use license::entitlement::{Algorithm, AssetGrant, Issuer, Shape, SigningKey, Verifier};
use license::{Clock as _, SystemClock};
use serde::Serialize;

use super::ConfigFile;
use crate::failure::{Exit, Failure};
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Sign a token
    #[command(
        after_help = "Example:\n  castellum token mint --key shop.secret --issuer https://shop.example \
                            --audience castellum --asset film --for 1h"
    )]
    Mint(Box<Mint>),
    /// Show what a token says, and whether the licence server would take it
    #[command(
        after_help = "Example:\n  castellum token inspect -c /etc/castellum/castellum.toml < token.jwt"
    )]
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Mint {
    /// The file of the signing key: an HS256 secret, or a private key in PEM (PKCS#8)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The algorithm that the key is for
    #[arg(long, value_enum, ignore_case = true, default_value = "HS256")]
    algorithm: SigningAlgorithm,
    /// What the token shall look like
    #[arg(long, value_enum, default_value = "native")]
    shape: MintedShape,
    /// The key's id, for the token's header; with `axinom`, its com_key_id
    #[arg(long, value_name = "ID", required_if_eq("shape", "axinom"))]
    key_id: Option<String>,
    /// The `iss` claim
    #[arg(long, value_name = "ISS", required_unless_present = "shape")]
    issuer: Option<String>,
    /// The `aud` claim
    #[arg(long, value_name = "AUD", required_unless_present = "shape")]
    audience: Option<String>,
    /// An asset that a native token covers, or `*`; may be repeated
    #[arg(long = "asset", value_name = "ID", required_unless_present = "kids")]
    assets: Vec<String>,
    /// A key that the token covers; may be repeated
    #[arg(long = "kid", value_name = "UUID")]
    kids: Vec<KeyId>,
    /// How long it is good
    #[arg(long = "for", value_name = "SPAN", default_value = "1h")]
    span: conf::Span,
    /// The `sub` claim
    #[arg(long, value_name = "SUB")]
    subject: Option<String>,
    /// The `jti` claim
    #[arg(long, value_name = "JTI")]
    token_id: Option<String>,
    /// The licence policy of a native token
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Makes the token good for one licence; it then needs --token-id, except with `axinom`
    #[arg(long)]
    single_use: bool,
    /// The stream that a native token is for
    #[arg(long, value_name = "ID")]
    session_id: Option<String>,
    /// The device that it is for
    #[arg(long, value_name = "ID")]
    device_id: Option<String>,
    /// How many streams its subject may play at once, in place of license.sessions.streams
    #[arg(long, value_name = "N")]
    max_streams: Option<u32>,
    /// How many devices its subject may have, in place of license.sessions.devices
    #[arg(long, value_name = "N")]
    max_devices: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct Inspect {
    #[command(flatten)]
    config: ConfigFile,
    /// The token; without it, it is read from standard input, where no process list shows it
    token: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SigningAlgorithm {
    #[value(name = "HS256")]
    Hs256,
    #[value(name = "ES256")]
    Es256,
    #[value(name = "ES384")]
    Es384,
    #[value(name = "EdDSA")]
    EdDsa,
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "PS256")]
    Ps256,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MintedShape {
    Native,
    DashIf,
    Axinom,
}

#[derive(Serialize)]
struct Minted {
    token: String,
}

pub(crate) fn run(args: Args, output: Output) -> Result<(), Failure> {
    match args.verb {
        Verb::Mint(args) => {
            let token = args.token()?;
            output.say(&Minted { token }, |minted| minted.token.clone())
        }
        Verb::Inspect(args) => {
            let inspection = args.inspection()?;
            let refused = matches!(inspection.verdict, Some(Verdict::Refused { .. }));
            output.say(&inspection, inspection_text)?;
            match refused {
                true => Err(Failure::new(
                    Exit::NotAllowed,
                    "the licence server refuses this token",
                )),
                false => Ok(()),
            }
        }
    }
}

impl Mint {
    fn token(self) -> Result<String, Failure> {
        let content = conf::SecretSource::file(&self.key)
            .read()
            .map_err(|error| {
                Failure::failed(format!("cannot read {}: {error}", self.key.display()))
            })?;
        let algorithm = match self.algorithm {
            SigningAlgorithm::Hs256 => Algorithm::Hs256,
            SigningAlgorithm::Es256 => Algorithm::Es256,
            SigningAlgorithm::Es384 => Algorithm::Es384,
            SigningAlgorithm::EdDsa => Algorithm::EdDsa,
            SigningAlgorithm::Rs256 => Algorithm::Rs256,
            SigningAlgorithm::Ps256 => Algorithm::Ps256,
        };
        let key = SigningKey::read(algorithm, &content).map_err(Failure::failed)?;
        let now = SystemClock.now();
        let claims = Claims {
            iat: Some(now),
            sub: self.subject,
            jti: self.token_id,
            assets: grant(&self.assets)?,
            kids: (!self.kids.is_empty()).then_some(self.kids),
            policy: self.policy,
            single_use: self.single_use,
            session_id: self.session_id,
            device_id: self.device_id,
            max_streams: self.max_streams,
            max_devices: self.max_devices,
            iss: self.issuer,
            aud: self.audience,
            ..Claims::until(now.plus(Duration::from(self.span)))
        };
        let shape = match self.shape {
            MintedShape::Native => Shape::Native,
            MintedShape::DashIf => Shape::DashIf,
            MintedShape::Axinom => Shape::Axinom,
        };
        mint_as(shape, &claims, self.key_id.as_deref(), &key).map_err(Failure::failed)
    }
}

fn grant(assets: &[String]) -> Result<Option<AssetGrant>, Failure> {
    match assets {
        [] => Ok(None),
        [all] if all == "*" => Ok(Some(AssetGrant::All)),
        names => names
            .iter()
            .map(|name| name.parse::<AssetId>())
            .collect::<Result<BTreeSet<_>, _>>()
            .map(|names| Some(AssetGrant::Only(names)))
            .map_err(Failure::usage),
    }
}

impl Inspect {
    fn inspection(self) -> Result<Inspection, Failure> {
        let license = self.config.load()?.license;
        let token = self.token.map_or_else(from_stdin, Ok)?;
        let verifier = match license.issuers.is_empty() {
            true => None,
            false => Some(verifier(&license)?),
        };
        inspect(token.trim(), verifier.as_ref(), SystemClock.now()).map_err(Failure::failed)
    }
}

/// A token from standard input, where no process list shows it.
pub(super) fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .take(64 << 10)
        .read_to_string(&mut text)
        .map_err(Failure::failed)?;
    Ok(text)
}

/// A verifier with the keys that the licence server would have now. What it fetches is kept nowhere.
pub(super) fn verifier(license: &conf::LicenseSettings) -> Result<Verifier, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let mut issuers = Vec::new();
    for issuer in &license.issuers {
        let (issuer, refresher) =
            Issuer::load(issuer, &license.state_dir).map_err(Failure::failed)?;
        issuers.push(issuer);
        if let Some(mut refresher) = refresher {
            runtime.block_on(refresher.refresh(SystemClock.now()));
        }
    }
    Ok(Verifier::new(issuers))
}

fn inspection_text(inspection: &Inspection) -> String {
    let mut text = String::new();
    for (title, members) in [
        ("header", &inspection.header),
        ("claims", &inspection.claims),
    ] {
        let _ = writeln!(text, "{title}");
        for (name, value) in members {
            let _ = writeln!(text, "  {name:8} {value}");
        }
    }
    let verdict = match &inspection.verdict {
        None => "not judged: no issuers are configured".to_owned(),
        Some(Verdict::Valid { issuer }) => format!("taken, from issuer {issuer}"),
        Some(Verdict::Refused { detail, .. }) => format!("refused: {detail}"),
    };
    let _ = writeln!(text, "verdict\n  {verdict}");
    text
}
