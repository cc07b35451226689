//! Runs a command with some system calls made to fail, as on file systems that do not support them:
//! `culvert-refuses flock=ENOSYS,fchmod=EPERM COMMAND …`.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

fn main() {
    const USAGE: &str = "usage: culvert-refuses CALL=ERROR[,…] COMMAND [ARGUMENT …]";
    let mut words = std::env::args_os().skip(1);
    let refused = words.next().and_then(|word| word.into_string().ok()).expect(USAGE);
    let program = words.next().expect(USAGE);
    for refused in refused.split(',') {
        let (call, error) = refused.split_once('=').expect(USAGE);
        refuse(number_of(call), errno_of(error));
    }
    let error = Command::new(&program).args(words).exec();
    panic!("{} cannot be started: {error}", program.display());
}

/// Filters are cumulative.
fn refuse(call: i64, errno: i32) {
    let arch = std::env::consts::ARCH.try_into().expect("there are filters for this architecture");
    let rules = BTreeMap::from([(call, Vec::new())]);
    let fails = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fails, arch).expect("the filter is valid");
    let filter: BpfProgram = filter.try_into().expect("the filter is valid");
    seccompiler::apply_filter(&filter).expect("the kernel supports filters");
}

fn number_of(call: &str) -> i64 {
    match call {
        "flock" => libc::SYS_flock,
        "fchmod" => libc::SYS_fchmod,
        "utimensat" => libc::SYS_utimensat,
        "fsync" => libc::SYS_fsync,
        "openat2" => libc::SYS_openat2,
        _ => panic!("add the number of {call}"),
    }
}

fn errno_of(error: &str) -> i32 {
    match error {
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "EINVAL" => libc::EINVAL,
        "EIO" => libc::EIO,
        "EACCES" => libc::EACCES,
        "ELOOP" => libc::ELOOP,
        "ENAMETOOLONG" => libc::ENAMETOOLONG,
        "ENFILE" => libc::ENFILE,
        "ENOMEM" => libc::ENOMEM,
        "ENOSPC" => libc::ENOSPC,
        "EROFS" => libc::EROFS,
        _ => panic!("add the number of {error}"),
    }
}
