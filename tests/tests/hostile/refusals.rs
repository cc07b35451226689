//! Bad input gets a clear error, nothing outside the permitted directory changes, and the node
//! carries on.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use culvert_tests::node::{Pair, RunningNode, key_of, kill, wait_for};
use culvert_tests::program::{Ran, command, is_root, run};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, contents, make_flat, temporary_files};

/// Asserts that the node that was abused still works.
fn assert_goes_on(pair: &Pair) {
    let source = pair.path("afterwards");
    fs::write(&source, "still here").unwrap();
    pair.send(&source, "afterwards", &["--overwrite", "always"]).exits(0);
    assert_eq!(fs::read(pair.shared.join("afterwards")).unwrap(), b"still here");
}

#[test]
fn an_unknown_key_waits_until_it_is_approved() {
    //= W-34
    //# If a node receives a `Hello` under an unknown key, it records the key as pending (in a table
    //# of fixed size, with a share per host) and refuses with `unknown_key`.
    //= W-30
    //# A node identifies its partners by these keys and nothing else.
    let pair = Pair::new();
    let node = pair.start();
    let stranger = pair.path("stranger");
    let fingerprint =
        run(&stranger, ["identity", "--json", "init"]).exits(0).json()["fingerprint"].as_str().unwrap().to_owned();
    let address = format!("127.0.0.1:{}", node.port);
    run(&stranger, ["profile", "add", "second", "--key", &key_of(&pair.there), "--address", &address]).exits(0);
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let send = || run(&stranger, ["send".as_ref(), source.as_os_str(), destination.as_ref()]);

    send().exits(4).says("profile approve").says(&fingerprint);
    assert!(contents(&pair.shared).is_empty());
    let pending = run(&pair.there, ["profile", "pending", "--json"]).exits(0).json();
    assert_eq!(pending.as_array().unwrap().len(), 1, "{pending}");
    assert_eq!(pending[0]["fingerprint"], fingerprint.as_str());
    let permit = format!("{}:write", pair.shared.display());
    run(&pair.there, ["profile", "approve", &fingerprint, "--name", "third", "--permit", &permit]).exits(0);
    send().exits(0);
    assert_eq!(fs::read(pair.shared.join("in")).unwrap(), b"content");
    // It may write there, and nothing else.
    let back = pair.path("back");
    run(&stranger, ["get".as_ref(), destination.as_ref(), back.as_os_str()]).exits(4);
    assert!(!back.exists());
    run(&pair.there, ["profile", "remove", "third"]).exits(0);
    send().exits(4);
    assert_goes_on(&pair);
}

#[test]
fn a_changed_key_stops_everything() {
    let pair = Pair::new();
    let _node = pair.start();
    let other = key_of(&pair.path("other"));
    run(&pair.here, ["profile", "edit", "second", "--key", &other]).exits(0);
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    pair.send(&source, "in", &[]).exits(12).says("key").says("profile edit");
    run(&pair.here, ["profile", "verify", "second"]).exits(12);
    assert!(contents(&pair.shared).is_empty());
}

#[test]
fn nothing_outside_the_permitted_directory_can_be_named() {
    let pair = Pair::new();
    let node = pair.start();
    let (source, outside) = (pair.path("file"), pair.path("outside"));
    fs::write(&source, "content").unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, pair.shared.join("link")).unwrap();
    symlink(outside.join("secret"), pair.shared.join("alias")).unwrap();
    let before = contents(&outside);
    let send = |destination: &Path| {
        let destination = format!("second:{}", destination.display());
        run(
            &pair.here,
            ["send".as_ref(), source.as_os_str(), destination.as_ref(), "--overwrite".as_ref(), "always".as_ref()],
        )
    };
    send(&outside.join("file")).exits(4).says("does not permit").says("--permit");
    // The log is read by whoever can permit it.
    let log = wait_for("the log", || Some(node.log()).filter(|log| log.contains("does not permit")));
    assert!(log.contains("this node does not permit ") && !log.contains("the partner does not"), "{log}");
    send(&pair.shared.join("../outside/file")).exits(4);
    send(&pair.shared.join("link/file")).exits(4);
    send(&pair.shared.join("link/")).exits(4);
    send(Path::new("../outside/file")).exits(4);
    assert_eq!(contents(&outside), before, "something changed outside");

    let back = pair.path("back");
    let get = |source: &str| run(&pair.here, ["get".as_ref(), format!("second:{source}").as_ref(), back.as_os_str()]);
    for name in ["../outside/secret", "link/secret"] {
        let ran = get(&pair.shared.join(name).display().to_string());
        assert_eq!(ran.code, 4, "{name}: {ran:?}");
    }
    // A symlink that is named is followed, and this one leads outside what is permitted.
    get(&pair.shared.join("alias").display().to_string()).exits(4).says("outside");
    get("/etc/passwd").exits(4);
    get(&pair.shared.join("nothing").display().to_string()).exits(3).says("nothing");
    assert!(!back.exists() || contents(&back).is_empty());
    assert_goes_on(&pair);
}

#[test]
fn a_symlink_inside_the_destination_is_not_followed() {
    let pair = Pair::new();
    let _node = pair.start();
    let (source, outside) = (pair.path("source"), pair.path("outside"));
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::write(source.join("deep/file"), "content").unwrap();
    fs::create_dir(&outside).unwrap();
    fs::create_dir(pair.shared.join("in")).unwrap();
    symlink(&outside, pair.shared.join("in/deep")).unwrap();
    let ran = pair.send(&source.join(""), "in", &["--overwrite", "always"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("deep"), "{ran:?}");
    assert!(contents(&outside).is_empty(), "the symlink was followed");
}

#[test]
fn sources_that_would_collide_are_named() {
    let pair = Pair::new();
    let _node = pair.start();
    for directory in ["one", "two"] {
        fs::create_dir(pair.path(directory)).unwrap();
        fs::write(pair.path(directory).join("same"), directory).unwrap();
    }
    let destination = format!("second:{}", pair.shared.join("in").display());
    let (one, two) = (pair.path("one/same"), pair.path("two/same"));
    let ran = run(&pair.here, ["send".as_ref(), one.as_os_str(), two.as_os_str(), destination.as_ref()]);
    let ran = ran.exits(1).says("same");
    assert!(ran.err.contains("one/same") && ran.err.contains("two/same"), "both are named: {}", ran.err);
    assert!(contents(&pair.shared).is_empty());
}

#[test]
fn sources_that_are_not_there_and_wrong_commands_have_their_exit_codes() {
    let pair = Pair::new();
    let _node = pair.start();
    pair.send(&pair.path("nothing"), "in", &[]).exits(3).says("nothing");
    let send = |arguments: &[&str]| run(&pair.here, [&["send"], arguments].concat());
    // It could be an ssh host, and is not a profile.
    send(&["--ssh", "/nowhere/ssh", "file", "nobody:/x"])
        .exits(7)
        .says("nobody")
        .says("profile add")
        .says("/nowhere/ssh");
    send(&["one", "two"]).exits(2);
    send(&["--rate", "fast", "file", "second:/x"]).exits(2).says("fast");
    send(&["second:/a", "second:/b"]).exits(2);
    run(&pair.here, ["no-such-command"]).exits(2);
    let configuration = pair.path("culvert.toml");
    fs::write(&configuration, "memory = \"much\"\n").unwrap();
    let ran: Ran = command(&pair.here, ["config", "show"]).arg("--config").arg(&configuration).output().unwrap().into();
    ran.exits(7).says("memory").says("culvert.toml");
    fs::write(&configuration, "memroy = \"1GiB\"\n").unwrap();
    let ran: Ran = command(&pair.here, ["config", "show"]).arg("--config").arg(&configuration).output().unwrap().into();
    ran.exits(7).says("memroy");
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() {
    let pair = Pair::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = |options: &[&str]| run(&pair.there, [&["node", "--ports", "any"], options].concat());
    listen(&["--listen", &address, "--metrics", "off"]).exits(7).says(&address).says("--listen");
    listen(&["--listen", "127.0.0.1:0", "--metrics", &address]).exits(7).says(&address).says("--metrics");
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    run(&pair.there, ["node", "--listen", "127.0.0.1:0", "--metrics", "off", "--bind", "0.0.0.0", "--ports", &port])
        .exits(7)
        .says(&port)
        .says("--ports");
    // Two nodes with one state directory.
    let _node = pair.start();
    listen(&["--listen", "127.0.0.1:0", "--metrics", "off"]).exits(1).says("already");
}

/// A small separate file system, until it is dropped.
struct SmallFileSystem<'a>(&'a Path);

impl<'a> SmallFileSystem<'a> {
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: mounting a small file system needs root");
            return None;
        }
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        match rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str()) {
            Ok(()) => Some(Self(at)),
            Err(error) => {
                eprintln!("skipped: mounting a small file system: {error}");
                None
            }
        }
    }
}

impl Drop for SmallFileSystem<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_before_and_while_data_move() {
    let pair = Pair::new();
    let Some(_mounted) = SmallFileSystem::mount(&pair.shared, "48m") else { return };
    let node = pair.start();
    let source = pair.path("file");
    fs::write(&source, Random::new(1).bytes(64 << 20)).unwrap();
    pair.send(&source, "in", &[]).exits(1).says("room");
    assert!(contents(&pair.shared).is_empty());

    // Somebody else fills it while the data arrives.
    fs::write(&source, Random::new(1).bytes(40 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--rate", "100M", "--retries", "0"]);
    let child = sending.arg(&source).arg(destination).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    let filler = pair.shared.join("filler");
    let _ = fs::write(&filler, Random::new(2).bytes(48 << 20));
    let ran: Ran = child.wait_with_output().unwrap().into();
    // Room for the whole file was reserved when it was opened, so either the filler or the file has
    // to give way.
    if ran.code == 0 {
        assert!(fs::read(pair.shared.join("in")).unwrap() == fs::read(&source).unwrap());
        assert!(fs::metadata(&filler).unwrap().len() < 48 << 20);
    } else {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!pair.shared.join("in").exists(), "an unfinished file has its name");
        assert!(ran.err.contains("room") || ran.err.contains("space"), "{ran:?}");
    }
    fs::remove_file(&filler).unwrap();
    pair.send(&source, "in", &["--overwrite", "always"]);
    assert!(fs::read(pair.shared.join("in")).unwrap() == fs::read(&source).unwrap());
    drop(node);
}

/// Regression: it was `bad_host` here, but `no_space` under the partner's state.
#[test]
fn a_full_disk_under_this_hosts_state_is_no_space_too() {
    let pair = Pair::new();
    let state = pair.path("small");
    fs::create_dir(&state).unwrap();
    let Some(_mounted) = SmallFileSystem::mount(&state, "256k") else { return };
    run(&state, ["identity", "init"]).exits(0);
    let mut filler = fs::File::create(state.join("filler")).unwrap();
    while filler.write_all(&[7; 1 << 10]).is_ok() {}
    let ran = run(&state, ["send", "--json", "/etc/hostname", "culvert://127.0.0.1:1/x"]).exits(1).says("make room");
    assert_eq!(ran.json()["error"]["code"], "no_space", "{ran:?}");
}

#[test]
fn small_files_on_a_disk_that_becomes_full_fail_by_name_and_come_later() {
    let pair = Pair::new();
    let Some(_mounted) = SmallFileSystem::mount(&pair.shared, "24m") else { return };
    let _node = pair.start();
    let source = pair.path("source");
    // The sum of sizes fits; the file system's blocks and the filler leave too little.
    make_flat(&source, 2_000, 10_000, &mut Random::new(9));
    fs::write(pair.shared.join("filler"), vec![1; 14 << 20]).unwrap();
    let ran = pair.send(&source.join(""), "in", &["--retries", "0"]);
    assert!(ran.code == 1 || ran.code == 6, "{ran:?}");
    assert!(ran.err.contains("room") || ran.err.contains("space") || ran.out.contains("space"), "{ran:?}");
    fs::remove_file(pair.shared.join("filler")).unwrap();
    let ran = pair.send(&source.join(""), "in", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_same(&source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty());
}

#[test]
fn sources_that_vanish_or_change_while_they_are_read_are_not_stored() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for name in ["1-whole", "2-grows", "3-shrinks", "4-vanishes", "5-whole"] {
        fs::write(source.join(name), Random::new(name.len() as u64).bytes(12 << 20)).unwrap();
    }
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json", "--rate", "100M"]);
    let child =
        sending.arg(source.join("")).arg(destination).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    let grows = fs::File::options().append(true).open(source.join("2-grows")).unwrap();
    std::io::Write::write_all(&mut &grows, b"more").unwrap();
    fs::File::options().write(true).open(source.join("3-shrinks")).unwrap().set_len(5 << 20).unwrap();
    fs::remove_file(source.join("4-vanishes")).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    let result = ran.exits(6).json();
    assert_eq!(result["state"], "succeeded_with_errors");
    let mut failed: Vec<_> =
        result["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap().to_owned()).collect();
    failed.sort();
    // If a file is removed, the opened version arrives, provided that it was open by then.
    if failed == ["2-grows", "3-shrinks"] {
        let carried = fs::read(pair.shared.join("in/4-vanishes")).unwrap();
        assert!(carried == Random::new("4-vanishes".len() as u64).bytes(12 << 20), "it is not the opened one");
        fs::remove_file(pair.shared.join("in/4-vanishes")).unwrap();
    } else {
        assert_eq!(failed, ["2-grows", "3-shrinks", "4-vanishes"], "{result}");
    }
    let stored: Vec<_> = contents(&pair.shared.join("in")).into_keys().collect();
    assert_eq!(stored, [Path::new("1-whole"), Path::new("5-whole")]);
    for name in ["1-whole", "5-whole"] {
        assert!(fs::read(source.join(name)).unwrap() == fs::read(pair.shared.join("in").join(name)).unwrap());
    }
    assert!(temporary_files(&pair.shared).is_empty());
    // What has settled down arrives with the next run.
    pair.send(&source.join(""), "in", &[]).exits(0);
    assert_same(&source, &pair.shared.join("in"));
}

#[test]
fn a_partner_that_does_not_answer_is_a_temporary_failure() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    drop(node);
    pair.send(&source, "in", &["--retries", "0"]).exits(5).says("culvert node");
    // Something else listens there.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    pair.meet(other.local_addr().unwrap().port());
    let answering = std::thread::spawn(move || {
        let (mut tcp, _) = other.accept().unwrap();
        std::io::Write::write_all(&mut tcp, b"SSH-2.0-OpenSSH_9.9\r\n").unwrap();
        std::io::Read::read(&mut tcp, &mut [0; 100]).unwrap();
    });
    let ran = pair.send(&source, "in", &["--retries", "0"]);
    assert!(ran.code == 1 || ran.code == 5, "{ran:?}");
    assert!(ran.err.contains("TLS"), "{ran:?}");
    answering.join().unwrap();
}

#[test]
fn an_interrupted_command_ends_with_its_code_and_goes_on_later() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("file");
    fs::write(&source, Random::new(1).bytes(24 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--rate", "50M"]);
    let child = sending.arg(&source).arg(destination).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(130).says("run the same command again");
    pair.send(&source, "in", &[]).exits(0);
    assert!(fs::read(pair.shared.join("in")).unwrap() == fs::read(&source).unwrap());
}

#[test]
fn waiting_ends_in_time_and_canceling_ends_a_transfer() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("file");
    fs::write(&source, Random::new(1).bytes(24 << 20)).unwrap();
    let mut node = command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let _ours = RunningNode::start(&pair.here, &mut node);
    let destination = format!("second:{}", pair.shared.join("in").display());
    let submitted: Ran = command(&pair.here, ["transfer", "submit", "--rate", "20M"])
        .arg(&source)
        .arg(destination)
        .output()
        .unwrap()
        .into();
    let id = submitted.exits(0).out.trim().to_owned();
    run(&pair.here, ["transfer", "wait", &id, "--timeout", "1"]).exits(10);
    run(&pair.here, ["transfer", "cancel", &id]).exits(0);
    let ran = run(&pair.here, ["transfer", "wait", &id, "--timeout", "30", "--json"]);
    assert_eq!(ran.exits(130).json()["state"], "canceled");
    run(&pair.here, ["transfer", "show", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"]).exits(3);
    run(&pair.here, ["transfer", "show", "nonsense"]).exits(3).says("transfer list");
    assert!(!pair.shared.join("in").exists());
}

#[test]
fn foreign_packets_are_counted_and_change_nothing() {
    //= W-9
    //# Datagrams of unknown flows are counted and dropped.
    let pair = Pair::new();
    let node = pair.start();
    let status = run(&pair.there, ["status", "--json"]).exits(0).json();
    let port = status["dataplane"]["lanes"][0]["port"].as_u64().unwrap() as u16;
    let source = pair.path("source");
    make_flat(&source, 10, 4 << 20, &mut Random::new(3));
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--quiet", "--rate", "100M"]);
    let mut child = sending.arg(source.join("")).arg(destination).spawn().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = Random::new(4);
    let mut sent = 0u32;
    while child.try_wait().unwrap().is_none() {
        for _ in 0..50 {
            let bytes = random.below(1_500) as usize;
            let mut packet = random.bytes(bytes);
            // Half of them look like ours: the right version and kind, an unknown flow.
            if sent.is_multiple_of(2) && packet.len() > 1 {
                (packet[0], packet[1]) = (1, 0);
            }
            // A full socket drops packets, which is just as good.
            let _ = socket.send_to(&packet, ("127.0.0.1", port));
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    assert_same(&source, &pair.shared.join("in"));
    let metrics = node.metrics();
    let rejected: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("culvert_segments_rejected_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(rejected > 0.0, "nothing was rejected of {sent} packets: {metrics}");
}

#[test]
fn connections_that_say_nothing_or_nonsense_do_not_stop_the_node() {
    let pair = Pair::new();
    let node = pair.start();
    let silent: Vec<_> = (0..80).map(|_| TcpStream::connect(("127.0.0.1", node.port)).unwrap()).collect();
    for seed in 0..20 {
        let mut tcp = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
        let _ = std::io::Write::write_all(&mut tcp, &Random::new(seed).bytes(5_000));
    }
    // More connections than may introduce themselves at once; silent ones are closed in time.
    assert_goes_on(&pair);
    drop(silent);
    assert!(node.metric("culvert_connections_refused_total") >= 1.0, "{}", node.metrics());
    kill(node.data_plane());
    assert_goes_on(&pair);
}

/// Regression: it showed the address as the kernel maps it into IPv6.
#[test]
fn a_stranger_over_ipv4_is_logged_by_that_address() {
    let pair = Pair::new();
    // On every address, of both families if there are two.
    let mut starting = command(&pair.there, ["node", "--listen", "0", "--ports", "any", "--metrics", "off"]);
    let node = RunningNode::start(&pair.there, &mut starting);
    let mut stranger = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
    stranger.write_all(&[0; 64]).unwrap();
    let log = wait_for("the refusal in the log", || Some(node.log()).filter(|log| log.contains("was refused")));
    assert!(log.contains("a connection from 127.0.0.1:"), "{log}");
}
