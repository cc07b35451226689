//! The `culvert` program: reads the command line, carries it out, and says what went wrong.

use std::process::ExitCode;

use clap::Parser as _;
use culvert_control::cli::{self, args::Cli};
use culvert_dataplane::say_aside;
use culvert_protocol::foreign_text::plain_lines;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            say_aside!("culvert: {}", plain_lines(&error.to_string()));
            ExitCode::from(error.exit_code)
        }
    }
}
