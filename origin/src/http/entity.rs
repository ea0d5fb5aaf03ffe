use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use origin_front::{Body, ETag, Entity, cors};
use origin_media::layout::Layout;

use crate::delivery::{BufferPool, Handing, MediaBody};
use crate::package::Package;

/// How long caches may keep something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Its name changes with its bytes (RFC 8246).
    ForEver,
    /// It points to the current revision.
    For(Duration),
}

impl Keep {
    fn header(self) -> HeaderValue {
        match self {
            Self::ForEver => HeaderValue::from_static("public, max-age=31536000, immutable"),
            Self::For(time) => {
                let seconds = time.as_secs();
                let text = format!("public, max-age={seconds}, stale-while-revalidate={seconds}");
                HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-cache"))
            }
        }
    }
}

/// Bytes that are in memory: manifests, playlists, init segments.
#[derive(Clone)]
pub(super) struct Document {
    pub(super) etag: ETag,
    pub(super) bytes: Bytes,
    pub(super) content_type: &'static str,
    pub(super) keep: Keep,
}

impl Entity for Document {
    fn etag(&self) -> ETag {
        self.etag.clone()
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(self.content_type)
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, self.keep.header());
        cors::allow(headers);
    }

    fn body(&self, range: Range<u64>) -> Body {
        let place = |at: u64| {
            usize::try_from(at)
                .unwrap_or(self.bytes.len())
                .min(self.bytes.len())
        };
        Body::full(self.bytes.slice(place(range.start)..place(range.end)))
    }
}

/// A segment, made while it is sent.
pub(super) struct Segment {
    pub(super) etag: ETag,
    pub(super) layout: Layout,
    pub(super) package: Arc<Package>,
    /// The position of its track in the presentation.
    pub(super) track: usize,
    pub(super) pool: Arc<BufferPool>,
    pub(super) handing: Handing,
}

impl Entity for Segment {
    fn etag(&self) -> ETag {
        self.etag.clone()
    }

    fn len(&self) -> u64 {
        self.layout.len()
    }

    fn content_type(&self) -> HeaderValue {
        let media = self.package.presentation.tracks()[self.track].media();
        HeaderValue::from_static(media_type(media))
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, Keep::ForEver.header());
        cors::allow(headers);
    }

    fn body(&self, range: Range<u64>) -> Body {
        let track = &self.package.presentation.tracks()[self.track];
        let len = range.end - range.start;
        match self.layout.render(range, self.package.cipher(track)) {
            Ok(render) => {
                let source = self.package.source(self.track);
                Body::chunks(
                    len,
                    MediaBody::new(
                        render,
                        Arc::clone(&self.package),
                        source,
                        Arc::clone(&self.pool),
                        self.handing,
                    ),
                )
            }
            // The lease has just ended: clear bytes must not leave instead.
            Err(_) => Body::chunks(len, NoKey),
        }
    }
}

/// A body that ends before it begins.
struct NoKey;

impl origin_front::Chunks for NoKey {
    fn poll_chunk(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, origin_front::Cut>>> {
        std::task::Poll::Ready(Some(Err(origin_front::Cut::because("no key"))))
    }
}

/// The media type of CMAF files of one kind (RFC 4337).
pub(super) fn media_type(media: origin_media::codec::Media) -> &'static str {
    match media {
        origin_media::codec::Media::Video => "video/mp4",
        origin_media::codec::Media::Audio => "audio/mp4",
    }
}
