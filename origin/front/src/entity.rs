//! A representation with a strong ETag and a known length, served with ranges and conditions.

use std::fmt;
use std::ops::Range;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request};

use crate::body::Body;
use crate::conditional::{Verdict, judge};
use crate::service::Response;

/// Something that has the same bytes at every call: a segment, a manifest, a page.
pub trait Entity {
    /// Names the bytes: equal tags mean equal bytes, for ever.
    fn etag(&self) -> ETag;

    /// The length of the whole, in bytes.
    fn len(&self) -> u64;

    /// Whether the whole has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The media type.
    fn content_type(&self) -> HeaderValue;

    /// Adds what else every answer carries, a 304 too: `Cache-Control`, CORS.
    fn add_headers(&self, headers: &mut HeaderMap);

    /// The bytes of a range within `0..len`.
    fn body(&self, range: Range<u64>) -> Body;
}

/// A strong entity tag (RFC 9110 8.8.3).
#[derive(Clone, PartialEq, Eq)]
pub struct ETag(HeaderValue);

impl ETag {
    /// The tag around this text, unless a character may not stand in one.
    pub fn strong(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte == 0x21 || (0x23..=0x7e).contains(&byte);
        if !text.bytes().all(allowed) {
            return None;
        }
        HeaderValue::from_str(&format!("\"{text}\"")).ok().map(Self)
    }

    /// As it stands in the header, quotes included.
    pub fn as_header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An entity with the head of a whole answer made beforehand: for what is asked for again and again.
#[derive(Clone, Debug)]
pub struct Prepared<E> {
    entity: E,
    etag: ETag,
    /// Of an answer with all of it.
    head: HeaderMap,
}

impl<E: Entity> Prepared<E> {
    /// Makes the head.
    pub fn new(entity: E) -> Self {
        let etag = entity.etag();
        let whole = answer(&Method::HEAD, &entity, etag.clone(), Verdict::Whole);
        Self {
            entity,
            etag,
            head: whole.into_parts().0.headers,
        }
    }

    /// What it is.
    pub fn entity(&self) -> &E {
        &self.entity
    }

    /// Answers a GET or HEAD, as [`serve`] does.
    pub fn serve(&self, request: &request::Parts) -> Response {
        let len = self.entity.len();
        match judge(
            &request.method,
            &request.headers,
            self.etag.as_header(),
            len,
        ) {
            Verdict::Whole => {
                let body = if request.method == Method::HEAD {
                    Body::empty()
                } else {
                    self.entity.body(0..len)
                };
                let mut response = Response::new(body);
                *response.headers_mut() = self.head.clone();
                response
            }
            other => answer(&request.method, &self.entity, self.etag.clone(), other),
        }
    }
}

/// Answers a GET or HEAD for an entity. Its body is asked for only if bytes of it are sent.
pub fn serve(request: &request::Parts, entity: &impl Entity) -> Response {
    let etag = entity.etag();
    let len = entity.len();
    let verdict = judge(&request.method, &request.headers, etag.as_header(), len);
    answer(&request.method, entity, etag, verdict)
}

fn answer(method: &Method, entity: &impl Entity, etag: ETag, verdict: Verdict) -> Response {
    let len = entity.len();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    entity.add_headers(headers);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));

    let status = match verdict {
        Verdict::Whole => {
            identify(headers, entity, etag);
            headers.insert(header::CONTENT_LENGTH, len.into());
            if method != Method::HEAD {
                *response.body_mut() = entity.body(0..len);
            }
            StatusCode::OK
        }
        Verdict::Part(range) => {
            identify(headers, entity, etag);
            headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
            headers.insert(header::CONTENT_RANGE, content_range(Some(&range), len));
            *response.body_mut() = entity.body(range);
            StatusCode::PARTIAL_CONTENT
        }
        Verdict::NotModified => {
            headers.insert(header::ETAG, etag.0);
            StatusCode::NOT_MODIFIED
        }
        // A refusal is not the entity, so nothing that lets caches keep the entity goes with it.
        Verdict::PreconditionFailed => {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            StatusCode::PRECONDITION_FAILED
        }
        Verdict::Unsatisfiable => {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(header::CONTENT_RANGE, content_range(None, len));
            StatusCode::RANGE_NOT_SATISFIABLE
        }
    };
    *response.status_mut() = status;
    response
}

fn identify(headers: &mut HeaderMap, entity: &impl Entity, etag: ETag) {
    headers.insert(header::ETAG, etag.0);
    headers.insert(header::CONTENT_TYPE, entity.content_type());
}

/// `bytes 0-9/100`, or `bytes */100` where no range could be had (RFC 9110 14.4).
fn content_range(range: Option<&Range<u64>>, len: u64) -> HeaderValue {
    let text = match range {
        Some(range) => format!("bytes {}-{}/{len}", range.start, range.end - 1),
        None => format!("bytes */{len}"),
    };
    HeaderValue::from_str(&text).expect("digits and punctuation are header text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    struct Alphabet;

    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

    impl Entity for Alphabet {
        fn etag(&self) -> ETag {
            ETag::strong("letters").unwrap()
        }
        fn len(&self) -> u64 {
            26
        }
        fn content_type(&self) -> HeaderValue {
            HeaderValue::from_static("text/plain")
        }
        fn add_headers(&self, headers: &mut HeaderMap) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("immutable"));
        }
        fn body(&self, range: Range<u64>) -> Body {
            let at = |position: u64| usize::try_from(position).unwrap();
            Body::full(&LETTERS[at(range.start)..at(range.end)])
        }
    }

    fn request(method: Method, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn ask(method: Method, fields: &[(&str, &str)]) -> Response {
        serve(&request(method, fields), &Alphabet)
    }

    async fn bytes(response: Response) -> Vec<u8> {
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec()
    }

    #[tokio::test]
    async fn any_range_equals_the_slice_of_the_whole() {
        let whole = bytes(ask(Method::GET, &[])).await;
        assert_eq!(whole, LETTERS);
        for first in 0..26 {
            for last in first..30 {
                let response = ask(Method::GET, &[("range", &format!("bytes={first}-{last}"))]);
                assert_eq!(response.status(), 206);
                let end = (last + 1).min(26);
                assert_eq!(
                    response.headers()[header::CONTENT_RANGE],
                    format!("bytes {first}-{}/26", end - 1)
                );
                assert_eq!(
                    response.headers()[header::CONTENT_LENGTH],
                    (end - first).to_string()
                );
                assert_eq!(bytes(response).await, &LETTERS[first..end]);
            }
        }
    }

    #[tokio::test]
    async fn head_differs_from_get_by_the_body_alone() {
        let (get, head) = (ask(Method::GET, &[]), ask(Method::HEAD, &[]));
        assert_eq!(get.headers(), head.headers());
        assert_eq!(get.status(), head.status());
        assert!(bytes(head).await.is_empty());
    }

    #[tokio::test]
    async fn not_modified_repeats_what_caches_need() {
        let response = ask(Method::GET, &[("if-none-match", "\"letters\"")]);
        assert_eq!(response.status(), 304);
        assert_eq!(response.headers()[header::ETAG], "\"letters\"");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "immutable");
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        assert!(bytes(response).await.is_empty());
    }

    #[tokio::test]
    async fn refusals_are_not_cached_as_the_entity() {
        let beyond = ask(Method::GET, &[("range", "bytes=26-")]);
        assert_eq!(beyond.status(), 416);
        assert_eq!(beyond.headers()[header::CONTENT_RANGE], "bytes */26");
        let other = ask(Method::GET, &[("if-match", "\"numbers\"")]);
        assert_eq!(other.status(), 412);
        for refusal in [beyond, other] {
            assert_eq!(refusal.headers()[header::CACHE_CONTROL], "no-store");
            assert!(!refusal.headers().contains_key(header::ETAG));
            assert!(bytes(refusal).await.is_empty());
        }
    }

    #[tokio::test]
    async fn a_head_made_beforehand_changes_no_answer() {
        let prepared = Prepared::new(Alphabet);
        for method in [Method::GET, Method::HEAD] {
            for fields in [
                &[][..],
                &[("range", "bytes=3-5")],
                &[("range", "bytes=26-")],
                &[("if-none-match", "\"letters\"")],
                &[("if-none-match", "\"numbers\"")],
                &[("if-match", "\"numbers\"")],
            ] {
                let (own, usual) = (
                    prepared.serve(&request(method.clone(), fields)),
                    ask(method.clone(), fields),
                );
                assert_eq!(own.status(), usual.status(), "{method} {fields:?}");
                assert_eq!(own.headers(), usual.headers(), "{method} {fields:?}");
                assert_eq!(bytes(own).await, bytes(usual).await, "{method} {fields:?}");
            }
        }
    }

    #[test]
    fn tags_are_made_of_tag_characters() {
        assert!(ETag::strong("aZ09-_.~!").is_some());
        for text in ["a\"b", "a b", "a\nb", "é"] {
            assert_eq!(ETag::strong(text), None, "{text}");
        }
    }
}
