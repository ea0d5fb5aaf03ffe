//! What a request goes through, in order: route, package, plan, entity.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, request};
use moka::sync::Cache;
use origin_front::{
    ConnectionInfo, ETag, Prepared, Problem, Protocol, Request, Response, RouteName, Service,
    Urgency, cors, entity,
};
use origin_media::codec::Media;
use origin_media::drm::Signalling;
use origin_media::identity::{MediaIds, Revision};
use origin_media::manifest::{Depth, ManifestKind, Resource, Subject, dash, hls};

use super::entity::{Document, Keep, Segment, media_type};
use super::rescue;
use super::route::{Format, MediaFile, Object, Route, RouteError};
use crate::delivery::{BufferPool, Handing, Planner};
use crate::error::Error;
use crate::package::Package;
use crate::packages::{Packages, Policy};
use crate::telemetry::{self, Made};

/// Answers the public listeners. Each worker has its own, with its own buffers.
#[derive(Clone)]
pub struct OriginService {
    views: Arc<Views>,
    pool: Arc<BufferPool>,
}

/// Bytes of a chunk: a window is planned, made, checked and sent at a time.
const CHUNK: usize = 128 * 1024;

/// What a player needs before it can show anything, manifests and init segments, and refusals: all of it short.
const AT_ONCE: Urgency = Urgency::of(1);

/// Audio is little beside the picture, and a gap in it is noticed sooner.
const AUDIO: Urgency = Urgency::of(2);

const VIDEO: Urgency = Urgency::of(3);

/// Everything that responses are made from, shared by all workers.
pub struct Views {
    packages: Arc<Packages>,
    policies: BTreeMap<String, Policy>,
    planner: Planner,
    /// By the path of the request.
    texts: Cache<String, Arc<Kept>>,
    alias_ttl: Duration,
}

/// Which text of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text<'a> {
    Alias(ManifestKind),
    Manifest(ManifestKind),
    Playlist(&'a str),
}

/// What a path was answered with.
struct Kept {
    revision: Revision,
    /// What it was made from. Not held: a title is closed when nobody has asked for it for a while.
    package: Weak<Package>,
    route: RouteName,
    document: Prepared<Document>,
}

impl Kept {
    /// Whether the path would be answered alike now: what it leads to was looked at a moment ago.
    fn stands(&self) -> bool {
        self.package
            .upgrade()
            .is_some_and(|package| package.title.was_just_current() && package.keys_good())
    }
}

/// What a kept text takes beside its bytes: its path, its head, its place in the cache.
const KEPT_OVERHEAD: usize = 1024;

impl Views {
    /// Views of `packages` under `policies`; plans and manifests are kept up to so many bytes each.
    pub fn new(
        packages: Arc<Packages>,
        policies: BTreeMap<String, Policy>,
        cache: &conf::CacheLimits,
        alias_ttl: Duration,
    ) -> Arc<Self> {
        let weight = |_: &String, kept: &Arc<Kept>| {
            let bytes = kept.document.entity().bytes.len();
            u32::try_from(bytes + KEPT_OVERHEAD).unwrap_or(u32::MAX)
        };
        Arc::new(Self {
            packages,
            policies,
            planner: Planner::new(cache.layouts),
            texts: Cache::builder()
                .max_capacity(cache.manifests)
                .weigher(weight)
                .build(),
            alias_ttl,
        })
    }

    /// A service for one worker.
    pub fn service(self: &Arc<Self>) -> OriginService {
        OriginService {
            views: Arc::clone(self),
            pool: BufferPool::new(CHUNK),
        }
    }

    /// The policies, by name.
    pub fn policies(&self) -> &BTreeMap<String, Policy> {
        &self.policies
    }

    fn policy(&self, name: &str) -> Result<&Policy, Error> {
        self.policies.get(name).ok_or(Error::NotFound)
    }
}

impl Service for OriginService {
    async fn call(&self, request: Request) -> Response {
        let (parts, _) = request.into_parts();
        let (name, mut response) = match parts.method {
            Method::OPTIONS => return cors::MEDIA.preflight(),
            Method::GET | Method::HEAD => match self.kept(&parts) {
                Some(answer) => answer,
                // On the heap: the futures of requests are moved, and most of a kept answer's would be this.
                None => Box::pin(self.answer(&parts)).await,
            },
            _ => (RouteName("other"), method_not_allowed()),
        };
        response.extensions_mut().insert(name);
        response.extensions_mut().get_or_insert(AT_ONCE);
        response
    }
}

fn method_not_allowed() -> Response {
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "Only GET, HEAD and OPTIONS are answered",
    );
    let mut response = problem.into_response();
    let headers = response.headers_mut();
    cors::allow(headers);
    let allow = http::HeaderValue::from_static("GET, HEAD, OPTIONS");
    headers.insert(http::header::ALLOW, allow);
    response
}

impl OriginService {
    /// The kept answer, while nothing needs to be looked at for it.
    fn kept(&self, request: &request::Parts) -> Option<(RouteName, Response)> {
        let kept = self.views.texts.get(request.uri.path())?;
        kept.stands()
            .then(|| (kept.route, kept.document.serve(request)))
    }

    /// What a plain `GET` of `resource` is answered with, for a caller in this process.
    ///
    /// # Errors
    /// [`Error`], where a viewer would get a status.
    pub(crate) async fn fetch(&self, resource: &Resource) -> Result<Response, Error> {
        let request = http::Request::get(resource.to_string()).body(());
        let (request, ()) = request.map_err(Error::internal)?.into_parts();
        let route = Route::parse(request.uri.path()).map_err(|_| Error::Malformed)?;
        self.object(&request, &route).await
    }

    async fn answer(&self, request: &request::Parts) -> (RouteName, Response) {
        let route = match Route::parse(request.uri.path()) {
            Ok(route) => route,
            Err(RouteError::Malformed) => {
                return (RouteName("other"), rescue::response(&Error::Malformed));
            }
            Err(RouteError::Unknown) => {
                return (RouteName("other"), rescue::response(&Error::NotFound));
            }
        };
        let name = route.object.name();
        let response = self.object(request, &route).await.unwrap_or_else(|error| {
            if let Error::Internal(_) | Error::Keystore(_) | Error::Storage(_) = error {
                tracing::warn!(asset = %route.asset, route = name, %error, "a request failed");
            }
            rescue::response(&error)
        });
        (RouteName(name), response)
    }

    async fn object(&self, request: &request::Parts, route: &Route<'_>) -> Result<Response, Error> {
        let views = &self.views;
        let asset = &route.asset;
        match route.object {
            Object::Alias {
                policy,
                filter: None,
                format,
            } => {
                let policy = views.policy(policy)?;
                let package = views.packages.current(asset, &policy.pack).await?;
                let revision = views.packages.revision(policy, &package);
                let text = Text::Alias(kind(format));
                self.text(request, policy, &package, revision, text)
            }
            Object::Manifest {
                policy,
                revision,
                filter: None,
                format,
            } => {
                let policy = views.policy(policy)?;
                let (package, revision) = views
                    .packages
                    .with_revision(asset, policy, revision)
                    .await?;
                let text = Text::Manifest(kind(format));
                self.text(request, policy, &package, revision, text)
            }
            Object::Playlist {
                policy,
                revision,
                filter: None,
                clip: None,
                rep,
                key_frames: false,
            } => {
                let policy = views.policy(policy)?;
                let (package, revision) = views
                    .packages
                    .with_revision(asset, policy, revision)
                    .await?;
                let text = Text::Playlist(rep);
                self.text(request, policy, &package, revision, text)
            }
            Object::Media {
                pack,
                rep,
                media_id,
                file,
            } => {
                let of = |ids: &MediaIds| match file {
                    MediaFile::Init => ids.init,
                    MediaFile::Segment(_)
                    | MediaFile::KeyFrame(_)
                    | MediaFile::Text(_)
                    | MediaFile::Whole => ids.segments,
                };
                let (package, track) = views
                    .packages
                    .with_media(asset, pack, rep, media_id, of)
                    .await?;
                self.media(request, package, track, media_id, file).await
            }
            // Filters, clips, key-frame playlists and thumbnails have URLs and are not made yet.
            Object::Alias { .. }
            | Object::Manifest { .. }
            | Object::Playlist { .. }
            | Object::Image { .. } => Err(Error::NotFound),
        }
    }

    async fn media(
        &self,
        request: &request::Parts,
        package: Arc<Package>,
        track: usize,
        media_id: &str,
        file: MediaFile,
    ) -> Result<Response, Error> {
        match file {
            MediaFile::Init => {
                let document = Document {
                    etag: etag(&format!("{media_id}-init"))?,
                    bytes: package.init(track).clone(),
                    content_type: media_type(package.presentation.tracks()[track].media()),
                    keep: Keep::ForEver,
                };
                Ok(entity::serve(request, &document))
            }
            MediaFile::Segment(number) => {
                let number = u32::try_from(number).map_err(|_| Error::NotFound)?;
                let layout = self.views.planner.segment(&package, track, number).await?;
                if request.method == Method::GET {
                    self.views.planner.read_ahead(&package, track, number);
                }
                let etag = etag(&format!("{media_id}-{number}"))?;
                let pool = Arc::clone(&self.pool);
                let urgency = match package.presentation.tracks()[track].media() {
                    Media::Audio => AUDIO,
                    Media::Video => VIDEO,
                };
                let segment = Segment {
                    etag,
                    layout,
                    package,
                    track,
                    pool,
                    handing: handing(request),
                };
                let mut response = entity::serve(request, &segment);
                response.extensions_mut().insert(urgency);
                Ok(response)
            }
            // Key-frame fragments, text and the virtual file have URLs and are not made yet.
            MediaFile::KeyFrame(_) | MediaFile::Text(_) | MediaFile::Whole => Err(Error::NotFound),
        }
    }

    fn text(
        &self,
        request: &request::Parts,
        policy: &Policy,
        package: &Arc<Package>,
        revision: Revision,
        text: Text<'_>,
    ) -> Result<Response, Error> {
        let views = &self.views;
        let path = request.uri.path();
        let kept = views.texts.get(path);
        let document = match kept.filter(|kept| kept.revision == revision) {
            Some(kept) if kept.package.as_ptr() == Arc::as_ptr(package) => {
                return Ok(kept.document.serve(request));
            }
            Some(kept) => kept.document.clone(),
            None => self.make(policy, package, revision, text)?,
        };
        let response = document.serve(request);
        let kept = Kept {
            revision,
            package: Arc::downgrade(package),
            route: RouteName(text.route()),
            document,
        };
        views.texts.insert(path.to_owned(), Arc::new(kept));
        Ok(response)
    }

    fn make(
        &self,
        policy: &Policy,
        package: &Package,
        revision: Revision,
        text: Text<'_>,
    ) -> Result<Prepared<Document>, Error> {
        let (name, kind, keep) = match text {
            Text::Alias(kind) => (
                format!("alias-{}", kind.file_name()),
                kind,
                Keep::For(self.views.alias_ttl),
            ),
            Text::Manifest(kind) => (kind.file_name().to_owned(), kind, Keep::ForEver),
            Text::Playlist(rep) => (rep.to_owned(), ManifestKind::Hls, Keep::ForEver),
        };
        let begun = Instant::now();
        let bytes = Bytes::from(write(policy, package, revision, text)?);
        let made = match kind {
            ManifestKind::Dash => Made::Dash,
            ManifestKind::Hls => Made::Hls,
        };
        telemetry::packaged(made, begun.elapsed());
        Ok(Prepared::new(Document {
            etag: etag(&format!("{revision}-{name}"))?,
            bytes,
            content_type: kind.content_type(),
            keep,
        }))
    }
}

fn write(
    policy: &Policy,
    package: &Package,
    revision: Revision,
    text: Text<'_>,
) -> Result<String, Error> {
    let asset = &package.title.asset.id;
    let signalling = policy.protection.as_ref().map(|protection| Signalling {
        policy: protection,
        license_url: &policy.license_url,
        asset,
    });
    let subject = Subject {
        presentation: &package.presentation,
        media_ids: &package.media_ids,
        revision,
        keys: &package.track_keys,
        signalling: signalling.as_ref(),
        max_video: policy.max_video,
    };
    Ok(match text {
        Text::Alias(ManifestKind::Dash) => dash::write(&subject, Depth::Alias),
        Text::Manifest(ManifestKind::Dash) => dash::write(&subject, Depth::Revision),
        Text::Alias(ManifestKind::Hls) => hls::multivariant(&subject, Depth::Alias),
        Text::Manifest(ManifestKind::Hls) => hls::multivariant(&subject, Depth::Revision),
        Text::Playlist(rep) => {
            let track = package.track(rep).filter(|(_, track)| subject.lists(track));
            let (at, _) = track.ok_or(Error::NotFound)?;
            hls::media_playlist(&subject, at)
        }
    })
}

/// Only the kernel is lent film: what encrypts records or sends packets again reads the bytes when it likes. And only
/// one response at a time: a write of lent bytes that the file has lost ends the connection, with every stream on it.
fn handing(request: &request::Parts) -> Handing {
    match request.extensions.get() {
        Some(ConnectionInfo {
            protocol: Protocol::H1,
            tls: false,
            ..
        }) => Handing::Lent,
        Some(_) | None => Handing::Copied,
    }
}

fn etag(text: &str) -> Result<ETag, Error> {
    ETag::strong(text).ok_or_else(|| Error::internal("an id that is no entity tag"))
}

fn kind(format: Format) -> ManifestKind {
    match format {
        Format::Hls => ManifestKind::Hls,
        Format::Dash => ManifestKind::Dash,
    }
}

impl Text<'_> {
    /// The `route` label of metrics and access log.
    fn route(self) -> &'static str {
        match self {
            Self::Alias(_) => "alias",
            Self::Manifest(_) => "manifest",
            Self::Playlist(_) => "playlist",
        }
    }
}

impl Object<'_> {
    /// The `route` label of metrics and access log.
    fn name(&self) -> &'static str {
        match self {
            Self::Alias { .. } => "alias",
            Self::Manifest { .. } => "manifest",
            Self::Playlist { .. } => "playlist",
            Self::Media {
                file: MediaFile::Init,
                ..
            } => "init",
            Self::Media {
                file: MediaFile::Segment(_),
                ..
            } => "segment",
            Self::Media {
                file: MediaFile::KeyFrame(_),
                ..
            } => "key-frame",
            Self::Media {
                file: MediaFile::Text(_),
                ..
            } => "text",
            Self::Media {
                file: MediaFile::Whole,
                ..
            } => "whole",
            Self::Image { .. } => "image",
        }
    }
}
