//! Unsafe code is only in modules that are named here, each of which has one indispensable job; the
//! lint `unsafe_code` denies it everywhere else, and `undocumented_unsafe_blocks` denies every
//! block without a reason.

use std::fs;

use culvert_tests::sources::{below, root};

/// The modules, and what each needs it for.
const MODULES: [(&str, &str); 14] = [
    ("dataplane/src/buffers.rs", "buffers that lanes lend to the kernel"),
    ("dataplane/src/datapath/af_xdp/rings.rs", "rings shared with the kernel"),
    ("dataplane/src/datapath/af_xdp/socket.rs", "AF_XDP's socket options"),
    ("dataplane/src/datapath/af_xdp/umem.rs", "packet buffers shared with the kernel"),
    ("dataplane/src/datapath/udp/socket.rs", "UDP super-buffers"),
    ("dataplane/src/disk/residency.rs", "cachestat"),
    ("dataplane/src/disk/uring.rs", "io_uring"),
    ("dataplane/src/kernel_calls.rs", "ethtool's ioctl, ignored signals"),
    ("dataplane/link/src/handles.rs", "buffers lent to the control process"),
    ("dataplane/link/src/shared_memory.rs", "memory shared by the two processes"),
    ("dataplane/tests/simulated_lanes/allocations.rs", "an allocator that counts"),
    ("perfsonar/src/kernel_calls.rs", "adjtimex and socket options"),
    ("tests/src/wan/tun.rs", "the emulator's tun devices"),
    ("tuning/host/src/kernel_calls.rs", "ethtool's and other ioctls"),
];
/// Separate workspaces: the XDP program, whose every access to a map or packet is checked by the
/// verifier, and the fuzz targets, which are one line each.
const OTHER_WORKSPACES: [&str; 2] = ["ebpf", "fuzz"];

/// Whether a line has the keyword in code, not in a comment.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut words = code.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.any(|word| word == "unsafe") && !code.contains('"')
}

#[test]
fn unsafe_code_stands_in_named_modules_only() {
    let files = below("");
    assert!(files.len() > 200, "only {} sources were found", files.len());
    let mut found: Vec<String> = files
        .iter()
        .filter(|file| file.text.lines().any(has_unsafe))
        .map(|file| file.path.display().to_string())
        .filter(|file| !OTHER_WORKSPACES.iter().any(|workspace| file.starts_with(workspace)))
        .collect();
    found.sort();
    let mut named = MODULES.map(|(module, _)| module.to_owned());
    named.sort();
    assert_eq!(found, named, "name the module and its reason here, or do without");
}

#[test]
fn the_lints_hold_in_every_crate() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in ["unsafe_code = \"deny\"", "undocumented_unsafe_blocks = \"deny\"", "unsafe_op_in_unsafe_fn = \"deny\""]
    {
        assert!(manifest.contains(lint), "{lint} is not in Cargo.toml");
    }
    let (_, members) = manifest.split_once("\nmembers = [").expect("the members");
    let (members, _) = members.split_once(']').expect("they end");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 16, "{members:?}");
    for member in members {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} does not take the workspace's lints");
    }
}
