//! The two lines that start a transfer over ssh: one to the far end, one back.

use culvert_protocol::identity::PublicKey;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

/// The version of the two lines.
pub const FAR_END_VERSION: u32 = 1;
/// How much a far end may print up to and including its line: room for what login shells print.
pub const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The start of the far end's line: its first field.
const ANSWER_START: &[u8] = br#"{"culvert_far_end""#;

/// The line to the far end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FarEndRequest {
    /// [`FAR_END_VERSION`].
    pub culvert_far_end: u32,
    /// The key that may use the far end.
    pub key: PublicKey,
}

/// The line from the far end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FarEndAnswer {
    /// [`FAR_END_VERSION`].
    pub culvert_far_end: u32,
    /// Its key.
    pub key: PublicKey,
    /// Its TCP port.
    pub port: u16,
    /// The address at which ssh reached it, as its host sees it.
    pub address: Option<String>,
}

/// The far end printed more than [`ANSWER_BYTES_MAX`] without its line.
#[derive(Debug)]
pub struct OutputTooLong;

/// Reads the far end's line; none if the output ends without it. Login shells may print other lines
/// before it, the last of them without a line end.
///
/// # Errors
/// [`OutputTooLong`].
pub async fn read_answer(stdout: impl AsyncRead + Unpin) -> Result<Option<FarEndAnswer>, OutputTooLong> {
    let mut lines = BufReader::new(stdout.take(ANSWER_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).await;
        let start = line.windows(ANSWER_START.len()).rposition(|bytes| bytes == ANSWER_START);
        if let Some(Ok(answer)) = start.and_then(|at| line.get(at..)).map(serde_json::from_slice) {
            return Ok(Some(answer));
        }
        if lines.get_ref().limit() == 0 && lines.buffer().is_empty() {
            return Err(OutputTooLong);
        }
        if !read.is_ok_and(|bytes| bytes > 0) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line without end was read into memory without limit.
    #[tokio::test(flavor = "current_thread")]
    async fn a_far_end_that_prints_endlessly_is_cut_off() {
        assert!(read_answer(tokio::io::repeat(b'x')).await.is_err());
        let answer = FarEndAnswer { culvert_far_end: 1, key: PublicKey([7; 32]), port: 9, address: None };
        let line = serde_json::to_string(&answer).unwrap();
        for before in ["", "welcome\nto this host\n", "\u{1b}[2J\n", "loading modules... ", "{\"culvert_far_end\" {"] {
            let told = format!("{before}{line}\n");
            assert_eq!(read_answer(told.as_bytes()).await.unwrap().map(|answer| answer.port), Some(9));
        }
        assert!(read_answer(line.as_bytes()).await.unwrap().is_some(), "an answer without a line end");
        assert!(read_answer(b"nothing of the kind\n".as_slice()).await.unwrap().is_none());
    }
}
