//! What users move arrives whole, under its name and with its attributes, whatever sources and
//! destinations are like.

mod changing_sources;
mod delta;
mod dry_runs;
mod engine_alone;
mod few_descriptors;
mod folding;
mod host_limits;
mod loopback;
mod moved_destinations;
mod named_sources;
mod read_only_directories;
mod refused_attributes;
mod resume;
mod rights;
mod sameness;
mod scale;
mod separate_data_plane;
mod shared_names;
mod stored_modes;
mod transfer_orders;
