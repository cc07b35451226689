//! The command line interface.
//!
//! Results go to standard output, progress and messages to standard error. All commands share one
//! table of exit codes ([`culvert_model::exit_code`], `docs/operations.md`).
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod api_client;
pub mod args;
pub mod bench;
pub mod capture;
pub mod command_tips;
pub mod completion;
pub mod config;
pub mod demo;
pub mod disk_bench;
pub mod dry_run;
pub mod embedded_node;
pub mod exit;
pub mod far_end;
pub mod identity;
pub mod interruption;
pub mod ledger;
pub mod location;
pub mod man;
pub mod monitor;
pub mod node;
pub mod numbers;
pub mod operands;
pub mod path;
pub mod phase;
pub mod portal;
pub mod profile;
pub mod progress;
pub mod remedies;
pub mod report;
pub mod running_node;
pub mod runtime;
pub mod scratch_directory;
pub mod second_node;
pub mod send;
pub mod ssh;
pub mod state_to_read;
pub mod status;
pub mod system_node;
pub mod transfer;
pub mod tune;
pub mod verbose;

use culvert_dataplane::process::StartError;
use culvert_link::process_name;
use culvert_model::exit_code::ExitCode;

use args::{Cli, Command};
use exit::CommandError;
use interruption::or_interrupted;
use runtime::block_on;

/// Runs a command.
///
/// # Errors
/// [`CommandError`] with its exit code.
pub fn run(cli: Cli) -> Result<ExitCode, CommandError> {
    process_name::set_if_nameless();
    // If core dumps cannot be forbidden here, the unit's and the host's settings apply.
    let _ = culvert_dataplane::core_dumps::forbid();
    raise_descriptor_limit();
    culvert_dataplane::process::ignore_file_size_signal();
    // The umask is read before other threads create files.
    let _ = culvert_objects::fs::destination::modes::process_umask();
    let Cli { mut global, command } = cli;
    system_node::select(&mut global, &command)?;
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
        Command::Login(args) => block_on(or_interrupted(portal::login::run(global, args))),
        Command::Logout(args) => block_on(portal::logout::run(global, args)),
        Command::Whoami(args) => block_on(or_interrupted(portal::whoami::run(global, args))),
        Command::Token(args) => block_on(or_interrupted(portal::tokens::run(global, args))),
        Command::Portal(args) => Err(portal::program::become_portal(&args.arguments)),
        Command::Completion(args) => completion::run(&args),
        Command::Version(args) => completion::version(&args),
        Command::FarEnd(args) => block_on(far_end::run(global, args)),
        Command::RuleKeeper => culvert_dataplane::keeper::run().map(|()| ExitCode::Done).map_err(CommandError::failed),
        Command::Dataplane => match culvert_dataplane::process::run() {
            // The control process reports the reason.
            Err(StartError::Told) => Ok(ExitCode::BadHost),
            ran => ran.map(|()| ExitCode::Done).map_err(CommandError::failed),
        },
    }
}

/// Raises the soft limit to the hard limit, because thousands of small files may be open at once.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
