//! What tools call a process: `ps` shows the words it was started with, `ss -p` and `top` its
//! kernel name.
//!
//! Culvert starts its own processes as `/proc/self/exe`, so that an update of the file does not mix
//! versions. Without a word of its own such a process would be called `exe` everywhere.

use std::ffi::CStr;

/// What Culvert's processes are started as, whatever file they are started from.
pub const PROGRAM: &str = "culvert";
/// What the kernel calls a process that was started through `/proc/self/exe`.
const NAMELESS: &[u8] = b"exe";

/// The data plane's. The kernel keeps 15 bytes.
pub const DATA_PLANE: &CStr = c"culvert-data";
/// The keeper's of receive rules.
pub const RULE_KEEPER: &CStr = c"culvert-rules";
/// Any other process's, unless its file's name says more.
const OTHER: &CStr = c"culvert";

/// Names this process, and the threads that it starts from now on and that are not named otherwise.
/// To be called by its main thread, whose name the process's is.
pub fn set(name: &CStr) {
    // A kernel without names is a kernel without them.
    let _ = rustix::thread::set_name(name);
}

/// Names this process if it has no name of its own.
pub fn set_if_nameless() {
    if rustix::thread::name().is_ok_and(|name| name.as_bytes() == NAMELESS) {
        set(OTHER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_cut() {
        for name in [DATA_PLANE, RULE_KEEPER, OTHER] {
            assert!(name.to_bytes().len() <= 15, "{name:?}");
        }
    }
}
