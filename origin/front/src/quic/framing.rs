//! The traits of this module over the `h3` crate.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use h3::error::Code;
use h3::frame::FrameStream;
use h3::proto::frame::FrameType;
use h3::proto::varint::VarInt;
use h3::server::{RequestResolver, RequestStream};
use h3::stream::BufRecvStream;
use http::{Response, header};
use http_body::{Frame, SizeHint};

use super::streams::{Line, RecvStream, SendStream};
use super::transport::Transport;
use super::{Broken, Connection, Reply, Stream};
use crate::body::RequestBody;
use crate::priority::Precedence;
use crate::service::Request;

/// A connection of the `h3` crate.
pub(crate) struct Http3 {
    h3: h3::server::Connection<Transport, Bytes>,
    line: Line,
}

impl Http3 {
    /// Opens HTTP/3 on a QUIC connection; request heads are bounded by `head_bytes`.
    pub(crate) async fn open(quic: quinn::Connection, head_bytes: usize) -> Result<Self, Broken> {
        let line = Line::new();
        let h3 = h3::server::builder()
            .max_field_section_size(head_bytes as u64)
            .build(Transport::new(quic, line.clone()))
            .await
            .map_err(broken)?;
        Ok(Self { h3, line })
    }
}

fn broken(fault: impl std::error::Error + Send + Sync + 'static) -> Broken {
    Broken(Box::new(fault))
}

impl Connection for Http3 {
    type Stream = Unresolved;

    async fn next(&mut self) -> Option<Unresolved> {
        let accepted = poll_fn(|context| {
            self.line.serve(context);
            self.h3.poll_accept_request_stream(context)
        });
        let stream = accepted.await.ok().flatten()?;
        let sending = stream.send.clone();
        let frames = FrameStream::new(BufRecvStream::new(stream));
        Some(Unresolved {
            head: self.h3.create_resolver(frames),
            sending,
        })
    }

    async fn go_away(&mut self) {
        // `h3` counts from the last stream that it accepted; the id in GOAWAY is the first that is not served.
        // A connection that is already lost need not hear of it.
        let _ = self.h3.shutdown(1).await;
    }
}

/// A stream whose head is still to be read.
pub(crate) struct Unresolved {
    head: RequestResolver<Transport, Bytes>,
    sending: SendStream,
}

impl Stream for Unresolved {
    type Reply = Sending;

    async fn head(self) -> Result<(Request, Sending), Broken> {
        let (request, stream) = self.head.resolve_request().await.map_err(broken)?;
        let (framed, receiving) = stream.split();
        let declared = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let body = Receiving {
            stream: Some(receiving),
            left: declared,
        }
        .into_body();
        let sending = Sending {
            framed,
            raw: self.sending,
            is_finished: false,
        };
        Ok((request.map(|()| body), sending))
    }
}

/// The answering half.
pub(crate) struct Sending {
    /// Frames heads.
    framed: RequestStream<SendStream, Bytes>,
    /// The same stream without frames.
    raw: SendStream,
    is_finished: bool,
}

impl Reply for Sending {
    fn rank(&mut self, precedence: Precedence) {
        self.raw.rank(precedence);
    }

    async fn head(&mut self, response: Response<()>, len: u64) -> Result<(), Broken> {
        self.framed.send_response(response).await.map_err(broken)?;
        if len > 0 {
            self.raw.push(data_header(len)?);
        }
        Ok(())
    }

    async fn data(&mut self, piece: Bytes) -> Result<(), Broken> {
        self.raw.push(piece);
        poll_fn(|context| self.raw.poll_flushed(context))
            .await
            .map_err(broken)
    }

    async fn finish(mut self) -> Result<(), Broken> {
        poll_fn(|context| self.raw.poll_flushed(context))
            .await
            .map_err(broken)?;
        self.raw.finish().map_err(broken)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // quinn would end a dropped stream with a FIN, as if nothing were missing.
        if !self.is_finished {
            self.raw.reset(Code::H3_INTERNAL_ERROR.value());
        }
    }
}

/// The beginning of a DATA frame (RFC 9114 7.2.1). A body's length is known, so one frame holds all of it.
fn data_header(len: u64) -> Result<Bytes, Broken> {
    let len = VarInt::from_u64(len).map_err(|_| Broken("a body of over 2^62 bytes".into()))?;
    let mut header = BytesMut::with_capacity(2 * VarInt::MAX_SIZE);
    FrameType::DATA.encode(&mut header);
    len.encode(&mut header);
    Ok(header.freeze())
}

type Incoming = RequestStream<RecvStream, Bytes>;

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
        match poll_fn(|context| self.poll_data(context)).now_or_never() {
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
            self.stream = None;
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
