//! Frames on a Unix socket: a JSON header and, apart from it, the bytes that are secret.
//!
//! ```text
//! +--------------+--------------+----------------+------------------+
//! | rest: u32 BE | head: u32 BE | header, JSON   | secret bytes     |
//! |              |              | `head` bytes   | rest - 4 - head  |
//! +--------------+--------------+----------------+------------------+
//! ```
//!
//! A serialiser thus never holds a key or a passphrase, and every buffer that does is wiped. No buffered
//! reader stands in between, since it would keep unwiped copies.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// The largest frame that either side takes, in bytes: 64 keys with the longest contexts, or a page of
/// records, fit many times over.
pub const MAX_FRAME: usize = 1 << 20;

/// The most secret bytes in one frame: [`crate::MAX_KEYS`] keys, a passphrase, or some of a backup.
pub const MAX_SECRET: usize = 256 << 10;

/// Bytes that are wiped when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// One frame.
#[derive(Debug)]
pub struct Frame<T> {
    /// The header.
    pub header: T,
    /// Secret bytes, whose meaning the header gives.
    pub secret: Secret,
}

impl<T> Frame<T> {
    /// A frame without secret bytes.
    pub fn open(header: T) -> Self {
        Self {
            header,
            secret: Secret::default(),
        }
    }
}

/// Reads one frame; `None` where the peer closed between two.
///
/// # Errors
/// Those of the stream; `InvalidData` for a frame over its limits or a header that is not a `T`.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Frame<T>>> {
    let rest = match stream.read_u32().await {
        Ok(rest) => rest_len(rest)?,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let (head, secret_len) = head_and_secret(rest, stream.read_u32().await?)?;
    let mut header = vec![0; head];
    stream.read_exact(&mut header).await?;
    let mut secret = Zeroizing::new(vec![0; secret_len]);
    stream.read_exact(&mut secret).await?;
    let header = serde_json::from_slice(&header).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(Frame { header, secret }))
}

/// Writes one frame.
///
/// # Errors
/// Those of the stream; `InvalidData` for a frame over its limits.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &Frame<T>,
) -> io::Result<()> {
    stream.write_all(&encode(frame)?).await
}

/// The bytes of one frame.
///
/// # Errors
/// `InvalidData` for a frame over its limits.
pub fn encode<T: Serialize>(frame: &Frame<T>) -> io::Result<Secret> {
    let header = serde_json::to_vec(&frame.header).map_err(io::Error::other)?;
    let rest = 4 + header.len() + frame.secret.len();
    if rest > MAX_FRAME || frame.secret.len() > MAX_SECRET {
        return Err(invalid(format!("a frame of {rest} bytes")));
    }
    let length = |len: usize| u32::try_from(len).map_err(io::Error::other);
    // Reserved at once: a vector that grows leaves unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 + rest));
    bytes.extend_from_slice(&length(rest)?.to_be_bytes());
    bytes.extend_from_slice(&length(header.len())?.to_be_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&frame.secret);
    Ok(bytes)
}

/// The one frame that `bytes` are.
///
/// # Errors
/// As for [`read`], and `UnexpectedEof` or `InvalidData` for fewer or more bytes than one frame has.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<Frame<T>> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (rest, bytes) = bytes.split_first_chunk().ok_or_else(short)?;
    let rest = rest_len(u32::from_be_bytes(*rest))?;
    if bytes.len() != rest {
        return Err(invalid(format!("{} bytes for {rest}", bytes.len())));
    }
    let (head, bytes) = bytes.split_first_chunk().ok_or_else(short)?;
    let (head, _) = head_and_secret(rest, u32::from_be_bytes(*head))?;
    let (header, secret) = bytes.split_at_checked(head).ok_or_else(short)?;
    let header = serde_json::from_slice(header).map_err(|error| invalid(error.to_string()))?;
    Ok(Frame {
        header,
        secret: Zeroizing::new(secret.to_vec()),
    })
}

/// What follows the first length, where that is within its limits.
fn rest_len(rest: u32) -> io::Result<usize> {
    let rest = usize::try_from(rest).unwrap_or(usize::MAX);
    match (4..=MAX_FRAME).contains(&rest) {
        true => Ok(rest),
        false => Err(invalid(format!("a frame of {rest} bytes"))),
    }
}

/// The lengths of the header and of what is secret.
fn head_and_secret(rest: usize, head: u32) -> io::Result<(usize, usize)> {
    let head = usize::try_from(head).unwrap_or(usize::MAX);
    (rest - 4)
        .checked_sub(head)
        .filter(|len| *len <= MAX_SECRET)
        .map(|secret| (head, secret))
        .ok_or_else(|| invalid(format!("a header of {head} bytes in a frame of {rest}")))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_as_it_was() {
        let frame = Frame {
            header: vec!["a".to_owned()],
            secret: Zeroizing::new(vec![1, 2, 3]),
        };
        let bytes = encode(&frame).unwrap();
        let mut stream = bytes.as_slice();
        let back: Frame<Vec<String>> = read(&mut stream).await.unwrap().unwrap();
        assert_eq!(back.header, frame.header);
        assert_eq!(*back.secret, *frame.secret);
        assert!(read::<Vec<String>>(&mut stream).await.unwrap().is_none());
        let back: Frame<Vec<String>> = decode(&bytes).unwrap();
        assert_eq!(back.header, frame.header);
        assert_eq!(*back.secret, *frame.secret);
        assert!(decode::<Vec<String>>(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[tokio::test]
    async fn refuses_frames_over_their_limits() {
        let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
        let too_short = 3_u32.to_be_bytes();
        let header_beyond_the_end = [0, 0, 0, 8, 0, 0, 0, 5, b'1', 0, 0, 0];
        let mut much_secret = vec![];
        much_secret.extend_from_slice(&u32::try_from(5 + MAX_SECRET + 1).unwrap().to_be_bytes());
        much_secret.extend_from_slice(&[0, 0, 0, 1, b'1']);
        much_secret.resize(much_secret.len() + MAX_SECRET + 1, 0);
        let not_json = [0, 0, 0, 5, 0, 0, 0, 1, b'{'];
        for bytes in [
            too_long.as_slice(),
            &too_short,
            &header_beyond_the_end,
            &much_secret,
            &not_json,
        ] {
            let mut stream = bytes;
            let error = read::<u32>(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            assert!(decode::<u32>(bytes).is_err());
        }
    }

    #[tokio::test]
    async fn a_frame_cut_short_is_an_error() {
        let bytes = encode(&Frame::open(7_u32)).unwrap();
        for end in 4..bytes.len() {
            let mut stream = &bytes[..end];
            assert!(read::<u32>(&mut stream).await.is_err(), "{end}");
            assert!(decode::<u32>(&bytes[..end]).is_err(), "{end}");
        }
    }
}
