//! A stand-in for ssh: the far end runs on this host, with its own state directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::children_of;
use crate::program::{command, culvert};

/// A far end that is reachable as `u@far`.
#[derive(Debug)]
pub struct FarEnd {
    script: PathBuf,
}

impl FarEnd {
    /// A far end whose state is in `room`, and whose program is started through `wrapper`, if there
    /// is one: words for a shell.
    ///
    /// # Panics
    /// If the script cannot be written.
    #[must_use]
    pub fn new(room: &Path, wrapper: Option<&Path>) -> Self {
        let script = room.join("ssh");
        let state = room.join("far");
        let wrapper = wrapper.map(|path| path.display().to_string()).unwrap_or_default();
        let text = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do [ \"$word\" = -G ] && {{ echo 'hostname 127.0.0.1'; exit 0; }}; done\n\
             while [ \"$1\" != -- ]; do shift; done\n\
             shift 2\n\
             export CULVERT_STATE='{}' SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22'\n\
             exec {wrapper} sh -c \"$*\"\n",
            state.display()
        );
        fs::write(&script, text).expect("a script can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        Self { script }
    }

    /// `send` or `get` with these options, by way of the far end; the caller adds sources and
    /// destination.
    #[must_use]
    pub fn command(&self, state: &Path, verb: &str, options: &[&str]) -> Command {
        self.command_that_starts(culvert(), state, verb, options)
    }

    /// As [`FarEnd::command`], with another program at the far end.
    #[must_use]
    pub fn command_that_starts(&self, program: &Path, state: &Path, verb: &str, options: &[&str]) -> Command {
        let mut command = command(state, [verb, "--json", "--ssh"]);
        command.arg(&self.script).arg("--remote-program").arg(program).args(options);
        command
    }

    /// A path at the far end.
    #[must_use]
    pub fn place(path: &Path) -> String {
        format!("u@far:{}", path.display())
    }
}

/// The far-end processes that a process has started, directly or not.
#[must_use]
pub fn far_ends_of(process: u32) -> Vec<u32> {
    let mut found = children_of(process);
    let mut at = 0;
    while let Some(&process) = found.get(at) {
        found.extend(children_of(process));
        at += 1;
    }
    let is_far_end = |process: &u32| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == b"far-end")
    };
    found.into_iter().filter(is_far_end).collect()
}
