//! What users, scripts and admins type, read, scrape and install.

mod answers;
mod api_forms;
mod busy_socket;
mod closed_streams;
mod contract;
mod debian_package;
mod documentation;
mod empty_paths;
mod error_texts;
mod far_ends;
mod interrupts;
mod killed_parents;
mod operations;
mod packaging;
mod places;
mod plurals;
mod port_ranges;
mod process_names;
mod profiles;
mod ssh;
mod ssh_beginnings;
mod tuning;
mod unsafe_code;
mod whose_node;
