//! Frames: the length of a JSON text as a little-endian u32, then the text.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A frame could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Larger than the receiver takes.
    #[error("a frame of {bytes} bytes or more, over the limit of {limit}")]
    TooLarge {
        /// Bytes written or announced so far.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended after {bytes} bytes of a frame of {announced}")]
    Torn {
        /// Bytes that came.
        bytes: u64,
        /// Bytes announced.
        announced: u64,
    },
    /// Not the JSON expected.
    #[error("a frame that is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes one frame and flushes. Nothing is written where the frame would be over `limit` bytes.
pub(super) fn write<T: Serialize>(
    stream: &mut impl Write,
    message: &T,
    limit: u64,
) -> Result<(), FrameError> {
    let mut body = Bounded { bytes: Vec::new(), limit: limit.min(u64::from(u32::MAX)), over: false };
    match serde_json::to_writer(&mut body, message) {
        Err(_) if body.over => {
            return Err(FrameError::TooLarge { bytes: body.bytes.len() as u64, limit });
        }
        other => other?,
    }
    stream.write_all(&(body.bytes.len() as u32).to_le_bytes())?;
    stream.write_all(&body.bytes)?;
    Ok(stream.flush()?)
}

/// Reads one frame; none at the end of the stream. Memory grows with the bytes that come, not with the length
/// announced.
pub(super) fn read<T: DeserializeOwned>(stream: &mut impl Read, limit: u64) -> Result<Option<T>, FrameError> {
    let mut length = Vec::new();
    stream.take(4).read_to_end(&mut length)?;
    let Ok(length) = <[u8; 4]>::try_from(length.as_slice()) else {
        return match length.len() {
            0 => Ok(None),
            bytes => Err(FrameError::Torn { bytes: bytes as u64, announced: 4 }),
        };
    };
    let announced = u64::from(u32::from_le_bytes(length));
    let body = read_bytes(stream, announced, limit)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes bytes as they are, behind a frame that says how many, and flushes.
pub(super) fn write_bytes(stream: &mut impl Write, bytes: &[u8]) -> Result<(), FrameError> {
    stream.write_all(bytes)?;
    Ok(stream.flush()?)
}

/// Reads bytes that a frame announced.
pub(super) fn read_bytes(stream: &mut impl Read, announced: u64, limit: u64) -> Result<Vec<u8>, FrameError> {
    if announced > limit {
        return Err(FrameError::TooLarge { bytes: announced, limit });
    }
    let mut read = Vec::new();
    let bytes = stream.take(announced).read_to_end(&mut read)? as u64;
    if bytes < announced {
        return Err(FrameError::Torn { bytes, announced });
    }
    Ok(read)
}

/// A buffer that refuses to grow over its limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: u64,
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_end_cleanly() {
        let mut stream = Vec::new();
        write(&mut stream, &"first", 100).unwrap();
        write(&mut stream, &[1, 2], 100).unwrap();
        let mut reader = stream.as_slice();
        assert_eq!(read::<String>(&mut reader, 100).unwrap().as_deref(), Some("first"));
        assert_eq!(read::<Vec<u8>>(&mut reader, 100).unwrap(), Some(vec![1, 2]));
        assert!(read::<String>(&mut reader, 100).unwrap().is_none());
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_on_both_sides() {
        let mut stream = Vec::new();
        assert!(matches!(write(&mut stream, &"12345678", 9), Err(FrameError::TooLarge { limit: 9, .. })));
        assert!(stream.is_empty());
        write(&mut stream, &"12345678", 10).unwrap();
        assert!(matches!(
            read::<String>(&mut stream.as_slice(), 9),
            Err(FrameError::TooLarge { bytes: 10, limit: 9 })
        ));
    }

    #[test]
    fn a_torn_frame_is_told_from_the_end() {
        let mut stream = Vec::new();
        write(&mut stream, &"torn", 100).unwrap();
        for length in 1..stream.len() {
            let result = read::<String>(&mut &stream[..length], 100);
            assert!(matches!(result, Err(FrameError::Torn { .. })), "{length}: {result:?}");
        }
    }
}
