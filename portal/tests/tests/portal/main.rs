//! What the program `culvert-portal` does, with real databases, proxies, clients and browsers.

mod contract;
mod first_minutes;
mod permission_walk;
