//! Framing: messages are written to a byte stream and read back from one.

use super::message::Message;
use super::refusal::{Refusal, RefusalCode};
use crate::manifest::Entry;

//= W-31
//# A frame is a 32-bit big-endian length followed by that many bytes, at most 256 KiB.
/// The longest frame. A list that does not fit is sent in parts.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Senders of lists close a message at this size, well below the frame's limit.
pub const LIST_BYTES: usize = 48 << 10;
/// Bytes that are not a message of this protocol. The connection cannot be used further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length beyond the limit; most often something else than Culvert speaks.
    #[error(
        "the partner announces a message of {0} bytes, but the limit is {FRAME_BYTES_MAX}: it does \
         not speak Culvert's protocol"
    )]
    TooLong(u32),
    /// A body that is not a message, or has bytes left over.
    #[error("the partner sent a malformed control message")]
    Malformed,
}

impl Message {
    /// Appends the message as a frame to `out`. A message that exceeds a frame, which senders of
    /// lists avoid by observing [`LIST_BYTES`], is replaced by a refusal that says so. The partner
    /// receives an explanation, and a partner cannot make this end fail by having it quote a long
    /// text.
    #[expect(clippy::expect_used, reason = "what is written is this program's own, and has a postcard form")]
    pub fn write_frame(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        *out = postcard::to_extend(self, std::mem::take(out)).expect("messages have a postcard form");
        let Some((length, body)) = out.get_mut(begin..).and_then(<[u8]>::split_first_chunk_mut) else { return };
        if body.len() <= FRAME_BYTES_MAX {
            *length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
            return;
        }
        let text = format!("this end has a message of {} bytes to send, the limit is {FRAME_BYTES_MAX}", body.len());
        out.truncate(begin);
        Self::Refused(Refusal::new(RefusalCode::Failed, text)).write_frame(out);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        //= W-31
        //# It contains exactly one message in postcard encoding.
        match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Malformed),
        }
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    taken: usize,
}

impl FrameReader {
    /// Adds bytes from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError`]; the reader cannot be used afterwards.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        //= W-31
        //# A longer frame ends the connection before memory is allocated for it.
        if length as usize > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length as usize) else { return Ok(None) };
        let message = Message::parse(body)?;
        self.taken = self.taken.saturating_add(4).saturating_add(length as usize);
        Ok(Some(message))
    }
}

/// Appends an entry to the body of a [`Message::ManifestPart`].
///
/// # Panics
/// Never: entries have a postcard form.
#[expect(clippy::expect_used, reason = "what is written is this program's own, and has a postcard form")]
pub fn encode_entry(entry: &Entry<'_>, part: &mut Vec<u8>) {
    *part = postcard::to_extend(entry, std::mem::take(part)).expect("entries have a postcard form");
}

/// Reads the entries of a [`Message::ManifestPart`].
pub fn decode_entries(mut part: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, FrameError>> {
    std::iter::from_fn(move || {
        if part.is_empty() {
            return None;
        }
        let taken = postcard::take_from_bytes(part);
        Some(match taken {
            Ok((entry, rest)) => {
                part = rest;
                Ok(entry)
            }
            Err(_) => {
                part = &[];
                Err(FrameError::Malformed)
            }
        })
    })
}
