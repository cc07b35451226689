//! Host tuning: facts, findings, plan, apply, roll back.
#![deny(unsafe_code)]

pub mod audit;
pub mod collect;
pub mod cpu_set;
pub mod facts;
pub mod file_tree;
pub mod finding;
pub mod host;
pub mod kernel_version;
pub mod netlink;
pub mod persist;
pub mod plan;
pub mod profile;
pub mod report;
pub mod rules;
pub mod setting;
pub mod site;
pub mod transaction;

#[allow(unsafe_code)]
mod kernel_calls;
