//! A node under attack by a hostile sender, and what must hold afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use culvert_protocol::control::{Message, SenderSummary};
use culvert_protocol::manifest::Entry;

use super::{CHUNK_BYTES, HostileSender};
use crate::node::{Pair, RunningNode, key_of, resident_kib};
use crate::program::{Ran, command, run};
use crate::random::Random;
use crate::tree::{Item, contents};

/// A node under attack, with an honest partner whose transfer is under way.
#[derive(Debug)]
pub struct AttackedNode {
    /// The node, and the partner that attacks it.
    pub pair: Pair,
    /// The node while it runs.
    pub node: RunningNode,
    /// The honest transfer that is under way.
    pub honest: Option<Child>,
    honest_state: PathBuf,
    outside: BTreeMap<PathBuf, Item>,
}

/// What the node's processes may use: their buffers (256 MiB at most, once all have been used) and
/// a little more.
const CONTROL_KIB_MAX: u64 = 200 << 10;
const DATA_PLANE_KIB_MAX: u64 = 500 << 10;

impl AttackedNode {
    /// Starts the node, and the honest transfer.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn begin() -> Self {
        let pair = Pair::new();
        fs::create_dir(pair.path("outside")).expect("a directory can be made");
        fs::write(pair.path("outside/precious"), "precious").expect("a file can be written");
        let node = pair.start();
        let honest_state = pair.path("honest");
        let permit = format!("{}:both", pair.shared.display());
        run(&pair.there, ["profile", "add", "honest", "--key", &key_of(&honest_state), "--permit", &permit]).exits(0);
        let address = format!("127.0.0.1:{}", node.port);
        run(&honest_state, ["profile", "add", "second", "--key", &key_of(&pair.there), "--address", &address]).exits(0);
        fs::write(pair.path("honest data"), Random::new(1).bytes(3 << 20)).expect("a file can be written");
        let outside = contents(&pair.path("outside"));
        let mut siege = Self { pair, node, honest: None, honest_state, outside };
        siege.honest = Some(siege.start_honest("20M"));
        siege
    }

    /// Starts an honest transfer, no faster than `rate`.
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn start_honest(&self, rate: &str) -> Child {
        let destination = format!("second:{}", self.pair.shared.join("honest").display());
        let mut sending =
            command(&self.honest_state, ["send", "--overwrite", "always", "--retries", "0", "--rate", rate]);
        sending.arg(self.pair.path("honest data")).arg(destination);
        sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// A transfer of these entries by the hostile sender.
    ///
    /// # Panics
    /// If the node refuses it.
    #[must_use]
    pub fn attack(&self, entries: &[Entry<'_>]) -> HostileSender {
        HostileSender::begin(&self.pair.here, self.node.port, &self.pair.shared.join("in"), entries)
    }

    /// What is stored under a name.
    #[must_use]
    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.pair.shared.join("in").join(name)).ok()
    }

    /// Asserts that everything is as it should be.
    ///
    /// # Panics
    /// If it is not.
    pub fn lift(mut self) {
        let honest: Ran = self.honest.take().expect("it is under way").wait_with_output().expect("it ends").into();
        honest.exits(0);
        let again: Ran = self.start_honest("1G").wait_with_output().expect("it ends").into();
        again.exits(0);
        assert!(
            fs::read(self.pair.path("honest data")).expect("it is there")
                == fs::read(self.pair.shared.join("honest")).expect("it is there")
        );
        assert!(self.node.is_alive(), "{}", self.node.log());
        assert!(!self.node.log().contains("panicked"), "{}", self.node.log());
        assert_eq!(self.node.metric("culvert_dataplane_restarts_total"), 0.0);
        let (control, data_plane) = (resident_kib(self.node.process_id()), resident_kib(self.node.data_plane()));
        assert!(control < CONTROL_KIB_MAX, "the control process grew to {control} KiB");
        assert!(data_plane < DATA_PLANE_KIB_MAX, "the data plane grew to {data_plane} KiB");
        assert_eq!(contents(&self.pair.path("outside")), self.outside);
    }
}

/// Contents that make up this many chunks.
#[must_use]
pub fn file_of_chunks(chunks: usize, seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(chunks * CHUNK_BYTES as usize - 1_000)
}

/// Sends everything that follows the last chunk.
pub fn say_the_end(sender: &mut HostileSender, complete: &[(u32, &[u8])]) {
    let complete = complete.iter().map(|&(file, bytes)| (file, *blake3::hash(bytes).as_bytes())).collect();
    sender.stranger.say(&Message::FilesComplete(complete));
    sender.stranger.say(&Message::AllSent(SenderSummary::default()));
}

/// Listens until the node reports that everything is stored.
///
/// # Panics
/// If the node refuses or closes the connection.
pub fn hear_finished(sender: &mut HostileSender) {
    loop {
        match sender.stranger.hear() {
            Some(Message::Finished { .. }) => return,
            Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
            Some(_) => {}
            None => panic!("the node closed the connection"),
        }
    }
}
