//! The traits of this module over the `h3` crate and quinn.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::{Response, header};
use http_body::{Frame, SizeHint};

use super::endpoint::STREAM_RECEIVE_WINDOW;
use super::{Broken, Connection, Reply, Stream};
use crate::body::RequestBody;
use crate::service::Request;

/// A connection of the `h3` crate.
pub(crate) struct Http3(h3::server::Connection<h3_quinn::Connection, Bytes>);

impl Http3 {
    /// Opens HTTP/3 on a QUIC connection; request heads are bounded by `head_bytes`.
    pub(crate) async fn open(quic: quinn::Connection, head_bytes: usize) -> Result<Self, Broken> {
        h3::server::builder()
            .max_field_section_size(head_bytes as u64)
            .build(h3_quinn::Connection::new(quic))
            .await
            .map(Self)
            .map_err(broken)
    }
}

fn broken(fault: impl std::error::Error + Send + Sync + 'static) -> Broken {
    Broken(Box::new(fault))
}

impl Connection for Http3 {
    type Stream = Unresolved;

    async fn next(&mut self) -> Option<Unresolved> {
        self.0.accept().await.ok().flatten().map(Unresolved)
    }

    async fn go_away(&mut self) {
        // `h3` counts from the last stream that it accepted; the id in GOAWAY is the first that is not served.
        // A connection that is already lost need not hear of it.
        let _ = self.0.shutdown(1).await;
    }
}

/// A stream whose head is still to be read.
pub(crate) struct Unresolved(RequestResolver<h3_quinn::Connection, Bytes>);

impl Stream for Unresolved {
    type Reply = Sending;

    async fn head(self) -> Result<(Request, Sending), Broken> {
        let (request, stream) = self.0.resolve_request().await.map_err(broken)?;
        let (sending, receiving) = stream.split();
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let body = Receiving {
            stream: Some(receiving),
            left: declared,
        }
        .into_body();
        Ok((request.map(|()| body), Sending(Some(sending))))
    }
}

/// The answering half; empty once finished.
pub(crate) struct Sending(Option<RequestStream<h3_quinn::SendStream<Bytes>, Bytes>>);

impl Sending {
    fn stream(&mut self) -> Result<&mut RequestStream<h3_quinn::SendStream<Bytes>, Bytes>, Broken> {
        self.0
            .as_mut()
            .ok_or_else(|| Broken("the stream is finished".into()))
    }
}

impl Reply for Sending {
    async fn head(&mut self, response: Response<()>) -> Result<(), Broken> {
        self.stream()?.send_response(response).await.map_err(broken)
    }

    async fn data(&mut self, piece: Bytes) -> Result<(), Broken> {
        self.stream()?.send_data(piece).await.map_err(broken)
    }

    async fn finish(mut self) -> Result<(), Broken> {
        self.stream()?.finish().await.map_err(broken)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // quinn would end a dropped stream with a FIN, as if nothing were missing.
        if let Some(stream) = &mut self.0 {
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
        }
    }
}

type Incoming = RequestStream<h3_quinn::RecvStream, Bytes>;

/// The receiving half, as a request's body.
struct Receiving {
    /// None once the body is over.
    stream: Option<Incoming>,
    /// What `Content-Length` still promises.
    left: Option<u64>,
}

impl Receiving {
    /// Almost every request ends with its head; then nothing is kept.
    fn into_body(mut self) -> RequestBody {
        match std::future::poll_fn(|context| self.poll_data(context)).now_or_never() {
            Some(None) => RequestBody::empty(),
            Some(Some(first)) => RequestBody::incoming(Begun {
                first: Some(first),
                rest: self,
            }),
            None => RequestBody::incoming(Begun {
                first: None,
                rest: self,
            }),
        }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        let received = match ready!(stream.poll_recv_data(context)) {
            Ok(Some(mut data)) => Ok(Some(data.copy_to_bytes(data.remaining()))),
            Ok(None) => Ok(None),
            Err(fault) => Err(fault),
        };
        let outcome = match received {
            Ok(Some(data)) => self.count(data).map(Some),
            Ok(None) => match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err("fewer bytes than Content-Length".into()),
            },
            Err(fault) => Err(Fault::from(fault)),
        };
        if !matches!(outcome, Ok(Some(_))) {
            self.let_go();
        }
        Poll::Ready(outcome.transpose())
    }

    /// RFC 9114 4.1.2: a body that contradicts its `Content-Length` is malformed.
    fn count(&mut self, data: Bytes) -> Result<Bytes, Fault> {
        if let Some(left) = self.left {
            let left = left.checked_sub(data.len() as u64);
            self.left = Some(left.ok_or("more bytes than Content-Length")?);
        }
        Ok(data)
    }

    /// Reads what is left of the request, since a client may take a stream that is stopped for a request that has
    /// failed. What has come already is read at once, the rest on a task that ends with the connection.
    fn let_go(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        let mut rest = Box::pin(discard(stream));
        if rest.as_mut().now_or_never().is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                // Beyond this the end is not late but missing.
                let _ = tokio::time::timeout(REST_TIMEOUT, rest).await;
            });
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// How long the end of a request is waited for that nobody reads.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads to the end of the stream, or as much as a client may send before it knows that nobody reads. Then quinn
/// stops the stream, with a code that HTTP/3 does not know and that so means H3_NO_ERROR (RFC 9114 8). Saying so
/// ourselves would panic: `h3_quinn` cannot stop a stream while it waits for data, nor tell whether it does.
async fn discard(mut stream: Incoming) {
    let mut left = STREAM_RECEIVE_WINDOW as usize;
    // Trailers end a body before the stream ends. What is wrong with a request that is answered no longer matters.
    let mut ends = 0;
    while ends < 2 {
        match stream.recv_data().await {
            Ok(Some(data)) if data.remaining() <= left => left -= data.remaining(),
            Ok(None) => ends += 1,
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A body of which the beginning may have come with the head.
struct Begun {
    first: Option<Result<Bytes, Fault>>,
    rest: Receiving,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let piece = match this.first.take() {
            Some(first) => Some(first),
            None => ready!(this.rest.poll_data(context)),
        };
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Ok(first)) => first.len() as u64,
            Some(Err(_)) | None => 0,
        };
        match self.rest.left {
            Some(left) => SizeHint::with_exact(left.saturating_add(first)),
            None => SizeHint::default(),
        }
    }
}
