//! Talks to a node's API directly, without the program.

use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::typed_path::TypedPath;
use culvert_protocol::control::{Options, Overwrite};
use culvert_protocol::rate_control::Mode;
use culvert_protocol::seal::Cipher;
use serde_json::Value;

/// Calls the API of the node that uses a state directory; returns the status code and the answer.
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

/// The body to post to push a file to `second`.
///
/// # Panics
/// Never.
#[must_use]
pub fn push_request(source: &Path, destination: &Path, rate_bits_per_second: Option<u64>) -> String {
    let typed = |path: &Path| TypedPath(path.as_os_str().as_bytes().to_vec());
    let request = TransferRequest {
        target: Target::Profile("second".to_owned()),
        movement: Movement::Push { sources: vec![typed(source)], destination: typed(destination) },
        options: Options {
            chunk_bytes: 4 << 20,
            checksum: true,
            cipher: Cipher::Aes256Gcm,
            overwrite: Overwrite::Never,
            preserve: false,
            flows: 1,
            mode: Mode::Fair,
            rate_bits_per_second,
            dry_run: false,
        },
        retries: Some(3),
    };
    serde_json::to_string(&request).expect("a request has a JSON form")
}
