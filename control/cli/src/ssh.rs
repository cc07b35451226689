//! Starts the far end of a transfer over ssh.
//!
//! ssh authenticates the user and the host, and through it both ends exchange their keys: one line
//! to the far end, one back ([`greeting`]). From then on the nodes talk to each other directly. ssh
//! only keeps the far end running, which exits when its standard input is closed.
//!
//! Everything that comes back through ssh is foreign text and bounded. An address that does not
//! parse is not used.

pub mod greeting;
mod stderr;

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use culvert_dataplane::process::start_beyond_terminal;
use culvert_model::exit_code::ExitCode;
use culvert_model::request::Target;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::identity::PublicKey;
use culvert_system::accounts::OwnedState;
use culvert_system::os_error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::exit::CommandError;
use crate::location::SshHost;
use crate::ssh::greeting::{ANSWER_BYTES_MAX, FAR_END_VERSION, FarEndRequest, OutputTooLong, read_answer};
use crate::ssh::stderr::{SshStderr, forward};

/// How long the far end may take to exit after its standard input is closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for an exit that may be the cause of an error.
const EXIT_STATUS_WAIT: Duration = Duration::from_millis(500);
/// How long to wait for the end of standard error after ssh has exited. A connection that ssh keeps
/// for later commands (ControlPersist) keeps it open forever.
const STDERR_WAIT: Duration = Duration::from_secs(1);

/// How ssh is called.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// The command, with options.
    pub command: String,
    /// The program on the other host.
    pub program: String,
    /// The far end's ports.
    pub ports: Option<String>,
    /// The far end's cores.
    pub cores: Option<String>,
}

impl SshOptions {
    /// The command line for the shell on the other host.
    fn remote_command(&self) -> String {
        let mut words = vec![quote(&self.program), "far-end".to_owned()];
        if let Some(ports) = &self.ports {
            words.extend(["--far-ports".to_owned(), quote(ports)]);
        }
        if let Some(cores) = &self.cores {
            words.extend(["--cores".to_owned(), quote(cores)]);
        }
        words.join(" ")
    }
}

/// How a far end exited without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It reported that its host lacks something. Another far end would exit for the same reason.
    WithReason(ExitCode),
    /// It was killed, or the connection to it was cut.
    Unexpectedly,
}

/// A far end, which runs until this is dropped.
#[derive(Debug)]
pub struct FarEnd {
    child: Child,
    stdin: ChildStdin,
    stderr: JoinHandle<SshStderr>,
    target: Target,
}

impl FarEnd {
    /// Starts the far end on `host`.
    ///
    /// # Errors
    /// [`CommandError`] with the message of ssh or of the program there.
    pub async fn start(host: &SshHost, options: &SshOptions, key: PublicKey) -> Result<Self, CommandError> {
        let mut words = options.command.split_whitespace();
        let program = words.next().ok_or_else(|| CommandError::usage("--ssh is empty"))?;
        let mut arguments: Vec<String> = words.map(str::to_owned).collect();
        if let Some(port) = host.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        let mut ssh = Command::new(program);
        ssh.args(&arguments)
            .arg("--")
            .arg(&host.name)
            .arg(options.remote_command())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // This process handles Ctrl-C: it first cancels the transfer, for which the far end must
        // still run, and then ends ssh. In a process group of its own, ssh would be in the
        // background and could not ask for a password.
        let mut child = start_beyond_terminal(|| ssh.spawn()).map_err(|error| {
            CommandError::new(ExitCode::BadHost, format!("{}{}", no_profile(host), cannot_start(program, &error)))
        })?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(CommandError::failed("ssh was started without pipes"));
        };
        let stderr = tokio::spawn(forward(stderr));
        // At the same time as the login, which takes far longer.
        let name = tokio::spawn(host_name(program.to_owned(), arguments, host.clone()));
        let request = FarEndRequest { culvert_far_end: FAR_END_VERSION, key };
        let mut line = serde_json::to_string(&request).map_err(CommandError::failed)?;
        line.push('\n');
        // If ssh cannot read it, ssh exits, and its exit status says more.
        let _ = stdin.write_all(line.as_bytes()).await;
        let _ = stdin.flush().await;
        let answer = match read_answer(stdout).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let status = child.wait().await.ok().and_then(|status| status.code());
                let printed = tokio::time::timeout(STDERR_WAIT, stderr).await.ok().and_then(Result::ok);
                return Err(Self::explain(host, options, status, printed.unwrap_or_default()));
            }
            Err(OutputTooLong) => return Err(output_too_long(host, options)),
        };
        if answer.culvert_far_end != FAR_END_VERSION {
            return Err(CommandError::failed(format!(
                "culvert on {host} is a different version: install the same version on both hosts"
            )));
        }
        let mut hosts = vec![name.await.unwrap_or_else(|_| host.host().to_owned())];
        // Text that is no address is neither resolved nor shown.
        let address =
            answer.address.and_then(|address| address.parse::<IpAddr>().ok()).map(|address| address.to_string());
        hosts.extend(address.filter(|address| !hosts.contains(address)));
        let target = Target::FarEnd { hosts, port: answer.port, key: answer.key };
        Ok(Self { child, stdin, stderr, target })
    }

    fn explain(host: &SshHost, options: &SshOptions, status: Option<i32>, mut printed: SshStderr) -> CommandError {
        if matches!(status, Some(127 | 255)) {
            printed.show();
        }
        match status {
            Some(127) => CommandError::new(
                ExitCode::NotFound,
                format!(
                    "'{}' was not found on {host}: copy this program there (scp {}), and name it \
                     with --remote-program if it is not in the PATH of commands run over ssh",
                    options.program,
                    host.for_scp()
                ),
            ),
            Some(255) => printed.failure.explain(&host.to_string(), &no_profile(host)),
            status => {
                let code = status.and_then(|status| ExitCode::of(u8::try_from(status).ok()?));
                let is_given = options.ports.is_some() || options.cores.is_some();
                let code = code.filter(|code| match code {
                    ExitCode::Temporary | ExitCode::BadHost => true,
                    // The options it refuses were given on this command line.
                    ExitCode::Usage => is_given,
                    _ => false,
                });
                let status = status.map_or("a signal".to_owned(), |code| format!("status {code}"));
                CommandError::new(
                    code.unwrap_or(ExitCode::Failed),
                    if printed.last.is_empty() {
                        format!(
                            "the far end on {host} ended before it answered ({status}); its message, if any, is above"
                        )
                    } else {
                        let last = printed.last.trim_start_matches("culvert: ");
                        format!("the far end on {host} ended before it answered ({status}): {last}")
                    },
                )
            }
        }
    }

    /// The far end as a transfer's target.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// How it exited without being asked to; none if it is running, or if its exit cannot have
    /// caused `error`. Waits a moment, because ssh notices the exit later than the network does.
    pub async fn ended(&mut self, error: &CommandError) -> Option<Ended> {
        let may_be_caused = [ExitCode::Failed, ExitCode::Temporary].map(|code| code as u8).contains(&error.exit_code);
        if !may_be_caused {
            return None;
        }
        let status = tokio::time::timeout(EXIT_STATUS_WAIT, self.child.wait()).await.ok()?.ok()?;
        let code = status.code().and_then(|code| ExitCode::of(u8::try_from(code).ok()?));
        Some(match code {
            Some(code @ (ExitCode::Temporary | ExitCode::BadHost)) => Ended::WithReason(code),
            _ => Ended::Unexpectedly,
        })
    }

    /// Ends it in an orderly way.
    pub async fn end(self) {
        let Self { mut child, stdin, stderr, .. } = self;
        drop(stdin);
        let _ = tokio::time::timeout(EXIT_TIMEOUT, child.wait()).await;
        if let Ok(Ok(mut printed)) = tokio::time::timeout(STDERR_WAIT, stderr).await {
            printed.show();
        }
    }
}

fn output_too_long(host: &SshHost, options: &SshOptions) -> CommandError {
    CommandError::failed(format!(
        "'{}' on {host} printed more than {} KiB, and none of it is a far end's answer: \
         is it culvert, and do the login shell's startup files print too much?",
        options.program,
        ANSWER_BYTES_MAX >> 10
    ))
}

/// The start of an error about a name that could have been a profile's.
fn no_profile(host: &SshHost) -> String {
    if !host.is_bare_name {
        return String::new();
    }
    let elsewhere = OwnedState::hint(Path::new(""), "profile list");
    format!(
        "there is no profile '{host}' ('culvert profile list' lists all, 'culvert profile add' \
         creates one{elsewhere}), and "
    )
}

/// The error if ssh cannot be started. It suggests to install ssh only if there is none.
fn cannot_start(program: &str, error: &std::io::Error) -> String {
    let hint = match os_error::code_of(error) {
        RefusalCode::NotFound | RefusalCode::NotPermitted => "; install an ssh client, or name one with --ssh",
        _ => "",
    };
    format!("cannot start '{program}': {error}{hint}")
}

/// The name or address of a host according to ssh's configuration.
async fn host_name(program: String, arguments: Vec<String>, host: SshHost) -> String {
    let plain = host.host().to_owned();
    let output = Command::new(program)
        .args(arguments)
        .args(["-G", "--", &host.name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let Ok(output) = output else { return plain };
    let settings = String::from_utf8_lossy(&output.stdout).into_owned();
    settings.lines().find_map(|line| line.strip_prefix("hostname ")).map_or(plain, |name| name.trim().to_owned())
}

/// Quotes a word for the shell on the other host.
fn quote(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-,~+@%=:".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("/opt/culvert"), "/opt/culvert");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("$(x)'y"), "'$(x)'\\''y'");
        assert_eq!(quote(""), "''");
    }
}
