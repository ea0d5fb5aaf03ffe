//! Handing out an asset as files: what a static server would need in order to be a twin of this origin.
//!
//! The files are answers of [`OriginService`], so they cannot differ from what viewers get. Manifests come after what
//! they name, so that a twin that is cut short names nothing that is not there.

use std::collections::HashSet;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use keystore_types::AssetId;
use origin_front::Body;
use origin_media::manifest::{ManifestKind, MediaObject, Resource};
use tokio::sync::mpsc;

use crate::control::{ExportReport, ExportedFile, Part, Refused, RefusedKind};
use crate::error::Error;
use crate::http::{OriginService, Views};
use crate::package::Package;
use crate::packages::{Packages, Policy};

/// Does the verb `export`.
pub struct Export {
    packages: Arc<Packages>,
    views: Arc<Views>,
    service: OriginService,
}

impl Export {
    /// Exports what `views` show of `packages`.
    pub fn new(packages: Arc<Packages>, views: Arc<Views>) -> Self {
        let service = views.service();
        Self {
            packages,
            views,
            service,
        }
    }

    /// Hands every file of `asset` under `policies`, or under all, to `parts`.
    ///
    /// # Errors
    /// [`Refused`]: what was handed out until then is not the whole.
    pub async fn run(
        &self,
        asset: AssetId,
        policies: Vec<String>,
        parts: mpsc::Sender<Part>,
    ) -> Result<ExportReport, Refused> {
        let policies = self.policies(&policies)?;
        let mut packages = Vec::new();
        for policy in policies {
            packages.push((policy, self.package(&asset, policy).await?));
        }
        let files = files(&self.packages, &packages);
        let total = files.len() as u64;
        let mut bytes = 0;
        for (done, resource) in (0..).zip(&files) {
            let path = resource.to_string();
            let answer = self.service.fetch(resource).await;
            let answer = answer.map_err(|error| named(&path, &error))?;
            if let Resource::Alias { .. } = resource {
                self.still(&asset, &packages).await?;
            }
            let body = answer.into_body();
            bytes += body.len();
            let file = ExportedFile {
                path: path.trim_start_matches('/').to_owned(),
                bytes: body.len(),
                done,
                total,
            };
            let gone = |_| unavailable("nobody takes the files any more".to_owned());
            parts.send(Part::File(file)).await.map_err(gone)?;
            hand_out(body, &path, &parts).await?;
        }
        Ok(ExportReport {
            asset,
            policies: packages
                .into_iter()
                .map(|(policy, _)| policy.name.clone())
                .collect(),
            files: total,
            bytes,
        })
    }

    /// Refuses once the asset is another: an alias, which is made of the asset as it is, would then take the place of
    /// one that is right, and name what is not among the files.
    async fn still(
        &self,
        asset: &AssetId,
        packages: &[(&Policy, Arc<Package>)],
    ) -> Result<(), Refused> {
        for (policy, package) in packages {
            let now = self.package(asset, policy).await?;
            let revision = |of: &Package| self.packages.revision(policy, of);
            if revision(&now) != revision(package) {
                return Err(unavailable(format!(
                    "{asset} became another while it was exported; export it again"
                )));
            }
        }
        Ok(())
    }

    /// These policies, in the order of their names, or all.
    fn policies(&self, names: &[String]) -> Result<Vec<&Policy>, Refused> {
        let known = self.views.policies();
        if let Some(unknown) = names.iter().find(|name| !known.contains_key(*name)) {
            let known: Vec<_> = known.keys().map(String::as_str).collect();
            return Err(malformed(format!(
                "the tenant {} has no policy {unknown}; it has {}",
                self.packages.tenant(),
                known.join(", ")
            )));
        }
        let wanted = |policy: &&Policy| names.is_empty() || names.contains(&policy.name);
        Ok(known.values().filter(wanted).collect())
    }

    async fn package(&self, asset: &AssetId, policy: &Policy) -> Result<Arc<Package>, Refused> {
        let package = self.packages.current(asset, &policy.pack).await;
        package.map_err(|error| match error {
            Error::NotFound => malformed(format!("there is no asset {asset} in the media root")),
            error => Refused::because(&error),
        })
    }
}

/// Everything that the manifests of these policies name, each once, and then the manifests.
fn files(of: &Packages, packages: &[(&Policy, Arc<Package>)]) -> Vec<Resource> {
    let mut files = Vec::new();
    for (policy, package) in packages {
        files.extend(media(policy, package));
    }
    for (policy, package) in packages {
        let (asset, revision) = (&package.title.asset.id, of.revision(policy, package));
        let tracks = package.presentation.tracks().iter();
        for track in tracks.filter(|track| policy.lists(track)) {
            files.push(Resource::Playlist {
                asset: asset.clone(),
                policy: policy.name.clone(),
                revision,
                rep: track.name().to_owned(),
            });
        }
        for kind in ManifestKind::ALL {
            let (asset, policy) = (asset.clone(), policy.name.clone());
            files.push(Resource::Manifest {
                asset,
                policy,
                revision,
                kind,
            });
        }
    }
    for (policy, package) in packages {
        files.extend(ManifestKind::ALL.map(|kind| Resource::Alias {
            asset: package.title.asset.id.clone(),
            policy: policy.name.clone(),
            kind,
        }));
    }
    // Policies of one pack share their media.
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    files
}

/// The init segment and the segments of every track that the policy's manifests list.
fn media(policy: &Policy, package: &Package) -> Vec<Resource> {
    let mut files = Vec::new();
    let tracks = package.presentation.tracks().iter().zip(&package.media_ids);
    for (track, ids) in tracks.filter(|(track, _)| policy.lists(track)) {
        let mut push = |media, object| {
            files.push(Resource::Media {
                asset: package.title.asset.id.clone(),
                pack: policy.pack.clone(),
                rep: track.name().to_owned(),
                media,
                object,
            });
        };
        push(ids.init, MediaObject::Init);
        for number in 1..=track.timeline().segment_count() {
            push(ids.segments, MediaObject::Segment(number));
        }
    }
    files
}

/// Hands on a body as it is made.
async fn hand_out(mut body: Body, path: &str, parts: &mpsc::Sender<Part>) -> Result<(), Refused> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cut| unavailable(format!("{path}: {cut}")))?;
        if let Ok(piece) = frame.into_data() {
            let gone = |_| unavailable("nobody takes the files any more".to_owned());
            parts.send(Part::Piece(piece)).await.map_err(gone)?;
        }
    }
    Ok(())
}

fn named(path: &str, error: &Error) -> Refused {
    let refused = Refused::because(error);
    Refused {
        message: format!("{path}: {}", refused.message),
        ..refused
    }
}

fn malformed(message: String) -> Refused {
    Refused {
        kind: RefusedKind::Malformed,
        message,
    }
}

fn unavailable(message: String) -> Refused {
    Refused {
        kind: RefusedKind::Unavailable,
        message,
    }
}
