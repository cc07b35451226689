//! iperf3: plain TCP, the rate of path and kernel without a cipher.

use anyhow::Context as _;

use super::installed::need;
use crate::field::{self, Field, RECEIVER, THERE};

/// The server.
#[derive(Debug)]
pub struct Server<'a> {
    field: &'a Field,
    _server: field::Server,
}

impl<'a> Server<'a> {
    /// Starts it.
    pub fn start(field: &'a Field) -> anyhow::Result<Self> {
        need(&["iperf3"])?;
        let server = field.serve(field.command(RECEIVER, "iperf3", &["-s", "-p", "5201"]), 5201)?;
        Ok(Self { field, _server: server })
    }

    /// One stream; the receiving rate in Gb/s.
    pub fn run(&self, congestion_control: &str) -> anyhow::Result<f64> {
        let (out, _) = self.field.run("iperf3", &["-c", THERE, "-J", "-t", "4", "-C", congestion_control])?;
        let result: serde_json::Value = serde_json::from_str(&out)?;
        Ok(result["end"]["sum_received"]["bits_per_second"].as_f64().context("no rate")? / 1e9)
    }
}
