//! Strangers, partners and a captured data plane take what they can get and lie: the node and its
//! other partners carry on.

mod captured_plane;
mod decoders;
mod greedy_partners;
mod handshakes;
mod hostile_manifests;
mod hostile_receiver;
mod hostile_sender;
mod pace_beside_greedy;
mod path_slots;
mod protocol_violations;
mod refusals;
mod secrets;
mod strangers;
