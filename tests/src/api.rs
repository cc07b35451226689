//! A node's API, spoken to without the program.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

/// Calls the API of the node that runs with a state directory: the status code and the answer.
///
/// # Panics
/// If nobody answers.
pub fn call(state: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(state.join("api.sock")).expect("the API can be reached");
    let bytes = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: culvert\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("a request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer can be read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer has a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}
