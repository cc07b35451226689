//! What a requester asks for, and the answer that says yes.

use serde::{Deserialize, Serialize};

use super::transfer_id::TransferId;
use crate::chunk_map::CHUNK_BYTES_DEFAULT;
use crate::rate_control::Mode;
use crate::seal::Cipher;

/// The most flows of a transfer.
pub const FLOWS_MAX: u16 = 256;

/// What to do with a destination file that already exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overwrite {
    /// A file of the same size and time is skipped; any other refuses the transfer before its first
    /// byte.
    #[default]
    Never,
    /// A file of the same size and time is skipped; any other is replaced.
    Changed,
    /// Every file is replaced.
    Always,
    //= W-47
    //# Since version 3, the options may request `content` for existing files.
    /// Files with chunks of their own are compared by the hashes of these chunks, whatever their
    /// size and time, and equal chunks are not sent. Other files are treated as in
    /// [`Overwrite::Changed`]. Only to partners of version [`CONTENT_SINCE`].
    ///
    /// [`CONTENT_SINCE`]: super::CONTENT_SINCE
    Content,
}

impl std::str::FromStr for Overwrite {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "never" => Ok(Self::Never),
            "changed" => Ok(Self::Changed),
            "always" => Ok(Self::Always),
            "content" => Ok(Self::Content),
            _ => Err(format!("unknown policy '{name}': write never, changed, content or always")),
        }
    }
}

/// How a transfer is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Chunk size, a power of two.
    pub chunk_bytes: u32,
    /// Whether chunks and files are hashed.
    pub checksum: bool,
    /// The cipher.
    pub cipher: Cipher,
    /// What to do with existing files.
    pub overwrite: Overwrite,
    /// Whether modes and times are set as they were.
    pub preserve: bool,
    /// How many flows; 0 leaves it to the nodes.
    pub flows: u16,
    /// How others on the path are treated.
    pub mode: Mode,
    /// The rate of all flows together, if one was asked for.
    pub rate_bits_per_second: Option<u64>,
    /// Only plan: report what would be sent.
    pub dry_run: bool,
}

impl Default for Options {
    /// What applies unless the user says otherwise.
    fn default() -> Self {
        Self {
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            checksum: true,
            cipher: Cipher::default(),
            overwrite: Overwrite::default(),
            preserve: false,
            flows: 0,
            mode: Mode::default(),
            rate_bits_per_second: None,
            dry_run: false,
        }
    }
}

/// What the requester wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestedAction {
    /// The requester sends; the answerer stores below `destination`.
    Push {
        /// A path on the answerer's host, as the user typed it.
        destination: Vec<u8>,
    },
    /// The answerer sends these of its files, listed as the requester would list its own.
    Pull {
        /// Paths on the answerer's host.
        sources: Vec<Vec<u8>>,
    },
    /// The requester sends bytes from memory, which the answerer verifies and forgets: a
    /// measurement of everything but the disks.
    Measure {
        /// How many bytes.
        bytes: u64,
    },
}

//= W-35
//# The connecting end sends one `Request`: transfer id, operation (push, pull or measure), options,
//# the UDP ports of its lanes, its largest datagram.
/// Asks for a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The transfer. A request repeated with the same id continues where it was interrupted.
    pub transfer: TransferId,
    /// What for.
    pub wish: RequestedAction,
    /// How.
    pub options: Options,
    /// UDP ports of the requester's lanes.
    pub lane_ports: Vec<u16>,
    /// The requester's largest datagram, from its interfaces' MTU.
    pub datagram_bytes_max: u16,
}

/// Says yes to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// UDP ports of the answerer's lanes.
    pub lane_ports: Vec<u16>,
    /// The answerer's largest datagram.
    pub datagram_bytes_max: u16,
}
