//! Moves chunks from a sending to a receiving flow in memory, so that the instructions of the hot
//! functions can be counted:
//!
//! ```text
//! cargo build --release -p culvert-protocol --example hot_functions
//! valgrind --tool=callgrind target/release/examples/hot_functions
//! ```
//!
//! Counts of two builds can be compared where a clock cannot.

use culvert_protocol::chunk_memory::ChunkMemory;
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::receiver_flow::{LaneCondition, Received, ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::Header;

const CHUNK_BYTES: u32 = 1 << 20;
const CHUNKS: u32 = 40;
const BUFFERS: u32 = 4;

fn main() {
    let schedule = |direction| KeySchedule::new(Cipher::Aes128Gcm, &Secret::new(&[1; 32]), 1, direction);
    let config = SenderConfig { flow_id: 1, stride: 1_424, chunk_bytes_max: CHUNK_BYTES, chunks_max: BUFFERS };
    let mut sender = SenderFlow::new(&config, &mut schedule(Direction::Forward), &mut schedule(Direction::Reverse), 0);
    let config = ReceiverConfig {
        flow_id: 1,
        chunk_count: CHUNKS,
        chunk_bytes_max: CHUNK_BYTES,
        allowance: BUFFERS,
        assemblies_max: BUFFERS,
    };
    let mut receiver =
        ReceiverFlow::new(&config, &mut schedule(Direction::Forward), &mut schedule(Direction::Reverse), 0);
    let (mut here, mut there) = (HeapBuffers::new(BUFFERS, CHUNK_BYTES), HeapBuffers::new(BUFFERS, CHUNK_BYTES));
    let (mut packet, mut report) = (vec![0; 2_048], [0; REPORT_BYTES_MAX]);
    let (mut next, mut whole, mut datagrams, mut now_us) = (0, 0, 0u64, 0);
    while whole < CHUNKS {
        let len = receiver.write_report(&LaneCondition::default(), now_us, &mut report);
        let parsed = Report::parse(&report[..len]).expect("the receiver wrote it");
        sender.on_report(&parsed, 0, |_, buffer| here.give_back(buffer));
        while next < CHUNKS && sender.room() > 0 {
            let Some(buffer) = here.take() else { break };
            sender.add_chunk(next, CHUNK_BYTES, buffer);
            sender.set_available(next, CHUNK_BYTES);
            next += 1;
        }
        for _ in 0..256 {
            now_us += 1;
            let Some(sealed) = sender.seal_next(&here, usize::MAX, now_us, &mut packet) else { break };
            datagrams += 1;
            // One in a hundred is lost.
            if datagrams.is_multiple_of(100) {
                continue;
            }
            let datagram = &packet[..sealed.datagram_bytes];
            let header = Header::parse_datagram(datagram).expect("the sender wrote it");
            if let Received::Completed(done) = receiver.receive(datagram, &header, &mut there, now_us) {
                there.give_back(done.buffer);
                receiver.release();
                whole += 1;
            } else if let Some((_, bytes)) = receiver.contiguous(header.chunk) {
                assert!(bytes <= CHUNK_BYTES as usize);
            }
        }
        sender.on_silence(u64::from(now_us) * 1_000, 1);
    }
    assert!(receiver.totals().packets < datagrams, "nothing was lost");
}
