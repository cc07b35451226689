//! Real networks made of namespaces: AF_XDP, links, gateways, long paths, path checks.

mod af_xdp;
mod af_xdp_interface;
mod af_xdp_links;
mod af_xdp_next_hops;
mod capture;
mod namespaces;
mod path;
mod receive_rules;
mod wan;
