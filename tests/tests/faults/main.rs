//! Processes, disks, clocks and paths fail midway: nothing is lost, and nothing is called stored
//! that is not.

mod clock;
mod closed_udp;
mod control_thread;
mod crashes;
mod cut_off;
mod icmp;
mod injected;
mod leftovers;
mod path_changes;
mod patience;
mod power_loss;
mod state_faults;
mod state_places;
