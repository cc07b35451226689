//! Starting the far end of a transfer over ssh.
//!
//! ssh knows the user and the host, so it vouches for both ends' keys: the line that goes there
//! carries this node's key, the line that comes back the far end's. From then on the nodes speak to
//! each other directly; ssh only holds the far end alive, which ends when its standard input does.
//!
//! What comes back through ssh is foreign text: what the far end says before its line is bounded,
//! its address is one or is not used, and its messages reach the terminal line by line with nothing
//! in them that a terminal obeys.

use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use culvert_dataplane::process::start_beyond_terminal;
use culvert_model::exit_code::ExitCode;
use culvert_model::request::Target;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::foreign_text::foreign_text;
use culvert_protocol::identity::PublicKey;
use culvert_system::accounts::OwnedState;
use culvert_system::os_error;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::exit::CommandError;
use crate::target::SshHost;

/// The version of the two lines.
pub const FAR_END_VERSION: u32 = 1;
/// How long the far end may take to exit when it is asked to.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long to wait for an exit that may have caused an error.
const END_WAIT: Duration = Duration::from_millis(500);
/// What may come before the far end's line, and the line: room for what login shells print.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The longest line of messages that is kept in memory.
const MESSAGE_BYTES_MAX: u64 = 4 << 10;
/// Lines of messages that are passed on.
const MESSAGES_MAX: usize = 1_000;
/// How long to wait for the remaining messages after the end. A connection that ssh keeps for later
/// commands (ControlPersist) keeps them open forever.
const MESSAGES_WAIT: Duration = Duration::from_secs(1);

/// The line to the far end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FarEndRequest {
    /// [`FAR_END_VERSION`].
    pub culvert_far_end: u32,
    /// The key that may use it.
    pub key: PublicKey,
}

/// The line from the far end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FarEndAnswer {
    /// [`FAR_END_VERSION`].
    pub culvert_far_end: u32,
    /// Its key.
    pub key: PublicKey,
    /// Its TCP port.
    pub port: u16,
    /// The address at which ssh reached it, as it sees it.
    pub address: Option<String>,
}

/// How ssh is called.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// The command, with options.
    pub command: String,
    /// The program on the other host.
    pub program: String,
    /// Its ports.
    pub ports: Option<String>,
    /// Its cores.
    pub cores: Option<String>,
}

/// How a far end exited without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It says that its host has too little of something, or does not fit: another would end
    /// likewise.
    WithReason(ExitCode),
    /// It was killed, or the way to it was cut.
    Unexpectedly,
}

/// A far end that is alive as long as this is.
#[derive(Debug)]
pub struct FarEnd {
    child: Child,
    stdin: ChildStdin,
    messages: JoinHandle<SshStderr>,
    target: Target,
}

impl FarEnd {
    /// Starts the far end on `host` (`user@host`).
    ///
    /// # Errors
    /// [`CommandError`] that says what ssh, or the program there, has to say.
    pub async fn start(host: &SshHost, options: &SshOptions, key: PublicKey) -> Result<Self, CommandError> {
        let mut words = options.command.split_whitespace();
        let program = words.next().ok_or_else(|| CommandError::usage("--ssh is empty"))?;
        let mut arguments: Vec<String> = words.map(str::to_owned).collect();
        if let Some(port) = host.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        let mut remote = vec![quote(&options.program), "far-end".to_owned()];
        if let Some(ports) = &options.ports {
            remote.extend(["--far-ports".to_owned(), quote(ports)]);
        }
        if let Some(cores) = &options.cores {
            remote.extend(["--cores".to_owned(), quote(cores)]);
        }
        let mut ssh = Command::new(program);
        ssh.args(&arguments)
            .arg("--")
            .arg(&host.name)
            .arg(remote.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is this process's to answer: it first says goodbye, for which the far end has to
        // be there, and ends ssh afterwards. A process group of its own would be in the background,
        // where ssh cannot ask for a password.
        let mut child = start_beyond_terminal(|| ssh.spawn()).map_err(|error| {
            CommandError::new(ExitCode::BadHost, format!("{}{}", no_profile(host), cannot_start(program, &error)))
        })?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(CommandError::failed("ssh was started without pipes"));
        };
        let messages = tokio::spawn(pass_on(stderr));
        // Beside the login, which takes far longer.
        let name = tokio::spawn(host_name(program.to_owned(), arguments, host.clone()));
        let request = FarEndRequest { culvert_far_end: FAR_END_VERSION, key };
        let mut line = serde_json::to_string(&request).map_err(CommandError::failed)?;
        line.push('\n');
        // If ssh cannot take it, it ends, and its exit status says more.
        let _ = stdin.write_all(line.as_bytes()).await;
        let _ = stdin.flush().await;
        let answer = match first_answer(stdout).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let status = child.wait().await.ok().and_then(|status| status.code());
                let said = tokio::time::timeout(MESSAGES_WAIT, messages).await;
                return Err(Self::explain(host, options, status, said.ok().and_then(Result::ok).unwrap_or_default()));
            }
            Err(OutputTooLong) => {
                return Err(CommandError::failed(format!(
                    "'{}' on {host} printed more than {} KiB, and none of it is a far end's answer: \
                     is it culvert, and do the login shell's startup files print too much?",
                    options.program,
                    ANSWER_BYTES_MAX >> 10
                )));
            }
        };
        if answer.culvert_far_end != FAR_END_VERSION {
            return Err(CommandError::failed(format!(
                "culvert on {host} is a different version: install the same version on both hosts"
            )));
        }
        let mut hosts = vec![name.await.unwrap_or_else(|_| host.host().to_owned())];
        // What is no address is not looked up, and not shown.
        let address =
            answer.address.and_then(|address| address.parse::<IpAddr>().ok()).map(|address| address.to_string());
        hosts.extend(address.filter(|address| !hosts.contains(address)));
        let target = Target::FarEnd { hosts, port: answer.port, key: answer.key };
        Ok(Self { child, stdin, messages, target })
    }

    fn explain(host: &SshHost, options: &SshOptions, status: Option<i32>, mut said: SshStderr) -> CommandError {
        if matches!(status, Some(127 | 255)) {
            said.show();
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
            Some(255) => said.failure.explain(&host.to_string(), &no_profile(host)),
            status => {
                // What it lacks for now, it will have another time; what does not fit there will
                // not fit this side either.
                let code = status.and_then(|status| ExitCode::of(u8::try_from(status).ok()?));
                let is_given = options.ports.is_some() || options.cores.is_some();
                let code = code.filter(|code| match code {
                    ExitCode::Temporary | ExitCode::BadHost => true,
                    // What it was given, it was given on this command line.
                    ExitCode::Usage => is_given,
                    _ => false,
                });
                let status = status.map_or("a signal".to_owned(), |code| format!("status {code}"));
                CommandError::new(
                    code.unwrap_or(ExitCode::Failed),
                    if said.last.is_empty() {
                        format!(
                            "the far end on {host} ended before it answered ({status}); its message, if any, is above"
                        )
                    } else {
                        let last = said.last.trim_start_matches("culvert: ");
                        format!("the far end on {host} ended before it answered ({status}): {last}")
                    },
                )
            }
        }
    }

    /// Where it is, as a transfer's target.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// How it exited without being asked to; none if it is alive, or if that cannot have caused the
    /// error. It waits a moment: ssh reports it later than the network does.
    pub async fn ended(&mut self, error: &CommandError) -> Option<Ended> {
        let may_come_of_it = [ExitCode::Failed, ExitCode::Temporary].map(|code| code as u8).contains(&error.exit_code);
        if !may_come_of_it {
            return None;
        }
        let status = tokio::time::timeout(END_WAIT, self.child.wait()).await.ok()?.ok()?;
        let code = status.code().and_then(|code| ExitCode::of(u8::try_from(code).ok()?));
        Some(match code {
            Some(code @ (ExitCode::Temporary | ExitCode::BadHost)) => Ended::WithReason(code),
            _ => Ended::Unexpectedly,
        })
    }

    /// Lets it go.
    pub async fn end(self) {
        let Self { mut child, stdin, messages, .. } = self;
        drop(stdin);
        let _ = tokio::time::timeout(FAREWELL, child.wait()).await;
        if let Ok(Ok(mut said)) = tokio::time::timeout(MESSAGES_WAIT, messages).await {
            said.show();
        }
    }
}

/// What is said first of a name that a profile could have had.
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

/// What is said if ssh cannot be started. Only one that is not there is to be installed.
fn cannot_start(program: &str, error: &std::io::Error) -> String {
    let hint = match os_error::code_of(error) {
        RefusalCode::NotFound | RefusalCode::NotPermitted => "; install an ssh client, or name one with --ssh",
        _ => "",
    };
    format!("cannot start '{program}': {error}{hint}")
}

/// More came than a far end says.
#[derive(Debug)]
struct OutputTooLong;

/// What the far end's line begins with: its first field.
const ANSWER_BEGINS: &[u8] = br#"{"culvert_far_end""#;

/// The far end's line; login shells may print others before it, and what they print need not end
/// its line.
async fn first_answer(stdout: impl AsyncRead + Unpin) -> Result<Option<FarEndAnswer>, OutputTooLong> {
    let mut lines = BufReader::new(stdout.take(ANSWER_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).await;
        let begins = line.windows(ANSWER_BEGINS.len()).rposition(|bytes| bytes == ANSWER_BEGINS);
        if let Some(Ok(answer)) = begins.and_then(|at| line.get(at..)).map(serde_json::from_slice) {
            return Ok(Some(answer));
        }
        if lines.get_ref().limit() == 0 && lines.buffer().is_empty() {
            return Err(OutputTooLong);
        }
        if !read.is_ok_and(|bytes| bytes > 0) {
            return Ok(None);
        }
    }
}

/// Output on ssh's standard error.
#[derive(Debug, Default)]
struct SshStderr {
    failure: SshFailure,
    /// The last line, if it is not shown yet.
    last: String,
}

impl SshStderr {
    fn show(&mut self) {
        let last = std::mem::take(&mut self.last);
        if !last.is_empty() {
            say_aside!("{last}");
        }
    }
}

/// Why ssh itself has failed, as far as its messages show: it always exits with 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SshFailure {
    /// Its messages are none that are known.
    #[default]
    Unknown,
    /// No host has the name.
    NoSuchHost,
    /// It had no connection, or lost it before anybody could log in.
    NoConnection,
    /// It was there and could not log in, or does not trust the host.
    NoLogin,
}

impl SshFailure {
    /// The meaning of a line from OpenSSH, in the words that `ssh(1)` has used for twenty years;
    /// they are not translated.
    fn of(line: &str) -> Option<Self> {
        let has = |words: &[&str]| words.iter().any(|words| line.contains(words));
        if has(&["Could not resolve hostname"]) {
            let is_for_now = has(&["Temporary failure", "Try again"]);
            return Some(if is_for_now { Self::NoConnection } else { Self::NoSuchHost });
        }
        if has(&["Permission denied (", "Host key verification failed", "Too many authentication failures"]) {
            return Some(Self::NoLogin);
        }
        let lost = [
            "connect to host ",
            "kex_exchange_identification",
            "banner exchange",
            "Connection closed by ",
            "Connection reset by ",
        ];
        has(&lost).then_some(Self::NoConnection)
    }

    fn explain(self, host: &str, no_profile: &str) -> CommandError {
        let (code, text) = match self {
            Self::NoSuchHost => (
                ExitCode::NotFound,
                format!("ssh knows no host of this name: check the spelling of '{host}'; its message is above"),
            ),
            Self::NoConnection => (
                ExitCode::Temporary,
                format!(
                    "ssh could not connect to {host}: is the host up, and does its ssh server listen? Its message is above"
                ),
            ),
            Self::NoLogin => (
                ExitCode::NotPermitted,
                format!(
                    "ssh could not log in to {host}: 'ssh {host}' must work without a prompt; its message is above"
                ),
            ),
            Self::Unknown => (
                ExitCode::Failed,
                format!("ssh could not reach {host} or log in there: try 'ssh {host}'; its message, if any, is above"),
            ),
        };
        CommandError::new(code, format!("{no_profile}{text}"))
    }
}

/// Passes on what ssh and the far end have to say, and returns what it says of ssh.
///
/// A line of the far end's own is held back for a moment: if it is the last, and the far end has
/// ended before it answered, it is the reason, which is said with the error and not before it.
async fn pass_on(stderr: impl AsyncRead + Unpin) -> SshStderr {
    /// Longer than a process takes to end that has said why.
    const HELD: Duration = Duration::from_millis(500);
    let mut said = SshStderr::default();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut count = 0usize;
    loop {
        line.clear();
        let mut bounded = (&mut lines).take(MESSAGE_BYTES_MAX);
        let mut reading = std::pin::pin!(bounded.read_until(b'\n', &mut line));
        let read = match tokio::time::timeout(HELD, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                said.show();
                reading.await
            }
        };
        if !read.is_ok_and(|bytes| bytes > 0) {
            return said;
        }
        said.show();
        if let Some(known) = SshFailure::of(&String::from_utf8_lossy(&line)) {
            said.failure = known;
        }
        count = count.saturating_add(1);
        if count <= MESSAGES_MAX {
            said.last = foreign_text(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])).to_string();
            if !said.last.starts_with("culvert: ") {
                said.show();
            }
        } else if count == MESSAGES_MAX + 1 {
            say_aside!("culvert: the far end printed more than {MESSAGES_MAX} lines; the rest is left out");
        }
    }
}

/// The name or address behind `user@host`, as ssh's configuration has it.
async fn host_name(program: String, arguments: Vec<String>, host: SshHost) -> String {
    let plain = host.host().to_owned();
    let told = Command::new(program)
        .args(arguments)
        .args(["-G", "--", &host.name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let Ok(told) = told else { return plain };
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    told.lines().find_map(|line| line.strip_prefix("hostname ")).map_or(plain, |name| name.trim().to_owned())
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

    /// Row 20: a line without end was taken into memory as long as it went on.
    #[tokio::test(flavor = "current_thread")]
    async fn a_far_end_that_prints_without_end_is_not_listened_to() {
        assert!(first_answer(tokio::io::repeat(b'x')).await.is_err());
        let answer = FarEndAnswer { culvert_far_end: 1, key: PublicKey([7; 32]), port: 9, address: None };
        let line = serde_json::to_string(&answer).unwrap();
        for before in ["", "welcome\nto this host\n", "\u{1b}[2J\n", "loading modules... ", "{\"culvert_far_end\" {"] {
            let told = format!("{before}{line}\n");
            assert_eq!(first_answer(told.as_bytes()).await.unwrap().map(|answer| answer.port), Some(9));
        }
        assert!(first_answer(line.as_bytes()).await.unwrap().is_some(), "an answer without its line's end");
        assert!(first_answer(b"nothing of the kind\n".as_slice()).await.unwrap().is_none());
    }

    /// ssh exits with 255 for all of them, and all of them were "not permitted".
    #[test]
    fn what_ssh_says_tells_why_it_failed() {
        for (line, code) in [
            ("ssh: Could not resolve hostname nohost: Name or service not known\r", ExitCode::NotFound),
            ("ssh: Could not resolve hostname h: Temporary failure in name resolution", ExitCode::Temporary),
            ("ssh: connect to host 192.0.2.1 port 22: Connection refused\r", ExitCode::Temporary),
            ("ssh: connect to host h port 22: Connection timed out", ExitCode::Temporary),
            ("kex_exchange_identification: Connection closed by remote host", ExitCode::Temporary),
            ("u@h: Permission denied (publickey,password).", ExitCode::NotPermitted),
            ("Host key verification failed.", ExitCode::NotPermitted),
            ("something else", ExitCode::Failed),
        ] {
            let error = SshFailure::of(line).unwrap_or_default().explain("u@h", "");
            assert_eq!(error.exit_code, code as u8, "{line}: {error}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("/opt/culvert"), "/opt/culvert");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("$(x)'y"), "'$(x)'\\''y'");
        assert_eq!(quote(""), "''");
    }
}
