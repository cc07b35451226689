//! The command line: what people type, and what they read.
//!
//! Results go to standard output, progress and messages to standard error. Every command ends with
//! an exit code of one table ([`culvert_model::exit_code`], `docs/operations.md`).
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod api_client;
pub mod args;
pub mod bench;
pub mod capture;
pub mod completion;
pub mod config;
pub mod demo;
pub mod disk_bench;
pub mod dry_run;
pub mod embedded_node;
pub mod exit;
pub mod far_end;
pub mod habits;
pub mod identity;
pub mod interruption;
pub mod ledger;
pub mod man;
pub mod monitor;
pub mod node;
pub mod numbers;
pub mod path;
pub mod phase;
pub mod profile;
pub mod progress;
pub mod report;
pub mod running_node;
pub mod runtime;
pub mod said;
pub mod second_node;
pub mod send;
pub mod ssh;
pub mod status;
pub mod target;
pub mod transfer;
pub mod tune;
pub mod typed;
pub mod verbose;
pub mod whose;

use culvert_dataplane::process::StartError;
use culvert_link::process_name;
use culvert_model::exit_code::ExitCode;

use args::{Cli, Command};
use exit::CommandError;
use interruption::or_interrupted;
use runtime::block_on;

/// Carries a command out.
///
/// # Errors
/// [`CommandError`] with its exit code.
pub fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    process_name::set_if_nameless();
    // Where it cannot be had, the unit's and the host's own settings hold.
    let _ = culvert_dataplane::core_dumps::forbid();
    raise_descriptor_limit();
    culvert_dataplane::process::ignore_file_size_signal();
    // Known before threads make files.
    let _ = culvert_objects::fs::destination::modes::process_umask();
    let Cli { mut global, command } = cli;
    whose::settle(&mut global, &command)?;
    match command {
        Command::Send(args) => block_on(send::send(global, args)),
        Command::Get(args) => block_on(send::get(global, args)),
        Command::Demo(args) => block_on(or_interrupted(demo::run(global, args))),
        Command::Node(args) => block_on(node::run(global, args)),
        Command::Identity(args) => identity::run(&global, &args),
        Command::Profile(args) => block_on(or_interrupted(profile::run(global, args))),
        Command::Transfer(args) => block_on(transfer::run(global, args)),
        Command::Path(args) => block_on(or_interrupted(path::run(global, args))),
        Command::Status(args) => block_on(or_interrupted(status::run(global, args))),
        Command::Monitor(args) => block_on(monitor::run(global, args)),
        Command::Capture(args) => block_on(capture::run(global, args)),
        Command::Tune(args) => tune::tune(&global, args),
        Command::Doctor(args) => tune::doctor(&global, args),
        Command::Bench(args) => bench::run(global, args),
        Command::Config(args) => config::run(&global, &args),
        Command::Completion(args) => completion::run(&args),
        Command::Version(args) => completion::version(&args),
        Command::FarEnd(args) => block_on(far_end::run(global, args)),
        Command::RuleKeeper => culvert_dataplane::keeper::run().map(|()| ExitCode::Done).map_err(CommandError::failed),
        Command::Dataplane => match culvert_dataplane::process::run() {
            // The control process says why.
            Err(StartError::Told) => Ok(ExitCode::BadHost),
            ran => ran.map(|()| ExitCode::Done).map_err(CommandError::failed),
        },
    }
}

/// Thousands of small files are open at once: the soft limit is raised as far as the hard one lets.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
