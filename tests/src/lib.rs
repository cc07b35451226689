//! What the whole-system tests share: the program, nodes, trees of files, seeds, and the lab of network namespaces.

pub mod api;
pub mod capture;
pub mod decoders;
pub mod faulty_disk;
pub mod history;
pub mod hostile_sender;
pub mod lab;
pub mod node;
pub mod program;
pub mod random;
pub mod rule_table;
pub mod sides;
pub mod stranger;
pub mod tree;
pub mod units;
pub mod wan;
