//! Tests on a real kernel, as root in a network namespace: the links, queues and offloads of a veth
//! pair, the namespace's sysctls, the command with its guard, and kill -9.
//!
//! Each test creates and removes its own namespaces, whose names begin with `tuning-`. The command
//! is the example `tune`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use culvert_host::netlink::{LinkBytes, QdiscEntry, QdiscTree};
use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, HostError, RealHost};
use culvert_tuning::transaction::{ApplyOptions, Intent, Store, apply, roll_back};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long an expected event may take before the test fails. It is generous, because no test is
/// about speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace with the veth pair tunv0 and tunv1.
struct Namespace {
    name: String,
    folder: tempfile::TempDir,
}

impl Namespace {
    /// Creates one; `None`, with the reason on stderr, if that is not possible.
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: not root");
            return None;
        }
        let name = format!("tuning-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                eprintln!("skipped: no network namespace: {}", String::from_utf8_lossy(&output.stderr));
                return None;
            }
            Err(error) => {
                eprintln!("skipped: ip: {error}");
                return None;
            }
        }
        let namespace = Self { name, folder: tempfile::tempdir().unwrap() };
        let queues = ["numtxqueues", "4", "numrxqueues", "4"];
        namespace.ip(&[
            &["link", "add", "tunv0"],
            &queues[..],
            &["type", "veth", "peer", "name", "tunv1"],
            &queues[..],
        ]
        .concat());
        for link in ["tunv0", "tunv1"] {
            namespace.ip(&["link", "set", link, "up"]);
        }
        Some(namespace)
    }

    fn ip(&self, arguments: &[&str]) -> String {
        let output = Command::new("ip").args(["-n", &self.name]).args(arguments).output().unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a closure on a thread in the namespace.
    fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let joined = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                run()
            });
            thread.join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// `tune ARGUMENTS` in the namespace.
    fn command(&self, arguments: &[&str]) -> Option<Command> {
        let program = example()?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program)
            .arg("--state")
            .arg(self.state())
            .arg("tune")
            .args(arguments);
        Some(command)
    }

    fn tune(&self, arguments: &[&str]) -> Option<Output> {
        Some(self.command(arguments)?.stdin(Stdio::null()).output().unwrap())
    }

    /// The namespace as tuning sees it, without values that change on their own.
    fn picture(&self) -> Option<serde_json::Value> {
        let output = self.tune(&["facts"])?;
        let mut facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for changing in ["origin", "memory", "numa", "softnet", "clock", "services", "cpu"] {
            facts.as_object_mut().unwrap().remove(changing);
        }
        for link in facts["links"].as_array_mut().unwrap() {
            link.as_object_mut().unwrap().remove("counters");
            // Duplicate address detection adds addresses later.
            link.as_object_mut().unwrap().remove("addresses");
        }
        Some(facts)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A leftover guard would be harmless, but it has nothing left to do.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// The example `tune`, built from the same source as this test: `cargo test --test namespace` alone
/// would leave an old one.
fn example() -> Option<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--offline", "-p", "culvert-tuning", "--example", "tune", "-j", "1"]);
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(profile.join("examples/tune")) } else { Err(text(&output.stderr)) }
    });
    built.as_ref().map_err(|why| eprintln!("skipped: the example tune could not be built: {why}")).ok().cloned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until the condition holds.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The rules that change only the namespace and its links; others would change the whole machine.
const RULES: [&str; 7] = [
    "nic.mtu",
    "nic.offloads",
    "nic.xps",
    "nic.busy_poll",
    "net.tcp_buffers",
    "net.tcp_metrics",
    "net.tcp_slow_start_after_idle",
];

fn with_rules<'a>(arguments: &[&'a str], site: &'a str) -> Vec<&'a str> {
    let mut all = arguments.to_vec();
    all.extend(["--site", site]);
    for rule in RULES {
        all.extend(["--rule", rule]);
    }
    all
}

/// A site file that makes tunv0 a data link with another MTU.
fn site(namespace: &Namespace) -> String {
    let path = namespace.path("site.toml");
    std::fs::write(&path, "[links.tunv0]\ndata = true\nmtu = 4000\n").unwrap();
    path.display().to_string()
}

fn tree(entries: &[(&str, &str, &str, &str)]) -> Value {
    let entry = |(kind, parent, handle, options): &(&str, &str, &str, &str)| QdiscEntry {
        kind: (*kind).to_owned(),
        parent: (*parent).to_owned(),
        handle: (*handle).to_owned(),
        options: (*options).to_owned(),
    };
    Value::new(serde_json::to_string(&QdiscTree(entries.iter().map(entry).collect())).unwrap())
}

#[test]
fn every_setting_of_a_link_can_be_read_and_written_as_it_is() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.inside(|| {
        let mut host = RealHost::open();
        let settings = host.settings_of_link("tunv0").unwrap();
        let has = |wanted: &dyn Fn(&Setting) -> bool| settings.iter().filter(|setting| wanted(setting)).count();
        assert!(has(&|setting| matches!(setting, Setting::Feature { .. })) > 10, "{settings:?}");
        assert_eq!(has(&|setting| matches!(setting, Setting::Channels { .. })), 1);
        assert_eq!(has(&|setting| matches!(setting, Setting::Qdisc { .. })), 1);
        assert_eq!(has(&|setting| matches!(setting, Setting::LinkBytes { .. })), 5);
        for setting in &settings {
            let value = host.read(setting).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(host.may_write(setting), Ok(()), "{setting}");
            host.write(setting, &value).unwrap_or_else(|error| panic!("{error}"));
            let again = host.read(setting).unwrap();
            assert!(setting.same(&value, &again), "{setting}: '{value}' became '{again}'");
        }
        assert!(matches!(host.settings_of_link("tunv9"), Err(HostError::Missing { .. })));
    });
}

#[test]
fn settings_change_and_come_back_exactly() {
    let Some(namespace) = Namespace::new() else { return };
    let link = || "tunv0".to_owned();
    let feature = |name: &str| Setting::Feature { link: link(), feature: name.to_owned() };
    let size = |size: LinkBytes| Setting::LinkBytes { link: link(), size };
    let wanted = [
        (Setting::sysctl("net.ipv4.tcp_rmem"), Value::new("4096 131072 33554432")),
        (Setting::sysctl("net.ipv4.tcp_congestion_control"), Value::new("reno")),
        (Setting::sysctl("net.core.somaxconn"), Value::new("1234")),
        (Setting::Channels { link: link() }, Value::new("rx 2 tx 3 combined 0")),
        (size(LinkBytes::Mtu), Value::new("3000")),
        (size(LinkBytes::GsoMax), Value::new("30000")),
        (size(LinkBytes::GroMax), Value::new("40000")),
        (size(LinkBytes::GsoIpv4Max), Value::new("20000")),
        (feature("rx-gro"), Value::new("on")),
        (feature("tx-tcp-segmentation"), Value::new("off")),
        // Other offloads depend on this one, so the kernel turns them off with it.
        (feature("tx-scatter-gather"), Value::new("off")),
        (Setting::Qdisc { link: link() }, tree(&[("pfifo", "root", "7:", "2c010000")])),
    ];
    let folder = namespace.state();
    namespace.inside(|| {
        let mut host = RealHost::open();
        let all = |host: &mut RealHost| -> Vec<(Setting, Value)> {
            let mut settings = host.settings_of_link("tunv0").unwrap();
            settings.extend(wanted.iter().map(|(setting, _)| setting.clone()));
            settings.sort();
            settings.dedup();
            settings.into_iter().map(|setting| (setting.clone(), host.read(&setting).unwrap())).collect()
        };
        let before = all(&mut host);
        let intents = wanted.iter().map(|(setting, to)| Intent {
            rule: "test".to_owned(),
            setting: setting.clone(),
            to: to.clone(),
        });
        let mut store = Store::at(&folder);
        let options = ApplyOptions::default();
        apply(&mut store, &mut host, intents.collect(), &options, &mut |_| Ok(())).unwrap();
        for (setting, to) in &wanted {
            let found = host.read(setting).unwrap();
            assert!(setting.same(to, &found), "{setting}: {found}");
        }
        roll_back(&mut store, &mut host, None, "the test asks").unwrap();
        assert_eq!(before, all(&mut host));
    });
}

/// sysfs shows the links of the namespace in which it was mounted. `ip netns exec` mounts it again,
/// so this test runs itself there.
#[test]
fn files_of_a_link_such_as_threaded_napi_change_and_come_back() {
    const INSIDE: &str = "CULVERT_TEST_INSIDE";
    let Some(folder) = std::env::var_os(INSIDE) else {
        let Some(namespace) = Namespace::new() else { return };
        let output = Command::new("ip")
            .args(["netns", "exec", &namespace.name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "files_of_a_link_such_as_threaded_napi_change_and_come_back", "--nocapture"])
            .env(INSIDE, namespace.state())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
        return;
    };
    let mut host = RealHost::open();
    let file = |name: &str| Setting::link_file("tunv0", name);
    // veth has NAPI only with GRO.
    let gro = Setting::Feature { link: "tunv0".to_owned(), feature: "rx-gro".to_owned() };
    host.write(&gro, &Value::new("on")).unwrap();
    let wanted = [
        (file("threaded"), Value::new("1")),
        (file("napi_defer_hard_irqs"), Value::new("2")),
        (file("gro_flush_timeout"), Value::new("200000")),
        (file("queues/rx-0/rps_cpus"), Value::new("1")),
        (file("queues/tx-1/xps_cpus"), Value::new("1")),
    ];
    let all = |host: &mut RealHost| -> Vec<Value> {
        wanted.iter().map(|(setting, _)| host.read(setting).unwrap_or_else(|error| panic!("{error}"))).collect()
    };
    let before = all(&mut host);
    let intent =
        |(setting, to): &(Setting, Value)| Intent { rule: "test".to_owned(), setting: setting.clone(), to: to.clone() };
    let mut store = Store::at(Path::new(&folder));
    let intents = wanted.iter().map(intent).collect();
    apply(&mut store, &mut host, intents, &ApplyOptions::default(), &mut |_| Ok(())).unwrap();
    for (setting, to) in &wanted {
        assert!(setting.same(to, &host.read(setting).unwrap()), "{setting}");
    }
    roll_back(&mut store, &mut host, None, "the test asks").unwrap();
    assert_eq!(before, all(&mut host));
}

#[test]
fn a_shaper_with_its_options_comes_back() {
    let Some(namespace) = Namespace::new() else { return };
    let tc = |arguments: &[&str]| {
        let output = Command::new("tc").args(["-n", &namespace.name]).args(arguments).output().unwrap();
        assert!(output.status.success(), "tc {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    tc(&[
        "qdisc", "add", "dev", "tunv0", "root", "handle", "5:", "tbf", "rate", "300mbit", "burst", "64k", "limit",
        "200k",
    ]);
    let before = tc(&["-d", "qdisc", "show", "dev", "tunv0"]);
    namespace.inside(|| {
        let mut host = RealHost::open();
        let qdisc = Setting::Qdisc { link: "tunv0".to_owned() };
        let snapshot = host.read(&qdisc).unwrap();
        host.write(&qdisc, &tree(&[("pfifo", "root", "9:", "")])).unwrap();
        assert!(host.read(&qdisc).unwrap().text().contains("pfifo"));
        host.write(&qdisc, &snapshot).unwrap();
        assert!(qdisc.same(&snapshot, &host.read(&qdisc).unwrap()));
    });
    assert_eq!(before, tc(&["-d", "qdisc", "show", "dev", "tunv0"]));

    // A tree with classes could not be restored, so reading it fails.
    tc(&["qdisc", "replace", "dev", "tunv0", "root", "handle", "6:", "htb", "default", "1"]);
    namespace.inside(|| {
        let error = RealHost::open().read(&Setting::Qdisc { link: "tunv0".to_owned() }).unwrap_err().to_string();
        assert!(error.contains("htb") && error.contains("could not be restored"), "{error}");
    });
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_changed() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.inside(|| {
        let mut host = RealHost::open();
        let mut refused = |setting: Setting, value: &str| {
            let error = host.write(&setting, &Value::new(value)).unwrap_err();
            (error.to_string(), error)
        };
        let (text, error) = refused(Setting::sysctl("net.core.no_such_key"), "1");
        assert!(error.is_missing() && text.contains("net.core.no_such_key"), "{text}");
        let (text, error) = refused(Setting::sysctl("net.core.rmem_max"), "1000000");
        assert!(matches!(error, HostError::NotPermitted { .. }) && text.contains("host's admin"), "{text}");
        let (text, error) = refused(Setting::mtu("tunv7"), "9000");
        assert!(error.is_missing() && text.contains("tunv7"), "{text}");
        let (text, error) = refused(Setting::mtu("tunv0"), "12");
        assert!(matches!(error, HostError::Refused { .. }) && text.contains("'12'"), "{text}");
        let (text, error) = refused(Setting::Rings { link: "tunv0".to_owned() }, "rx 1 tx 1");
        assert!(matches!(error, HostError::Unsupported { .. }), "{text}");
        let (text, error) =
            refused(Setting::Qdisc { link: "tunv0".to_owned() }, &tree(&[("nonesuch", "root", "", "")]).0.unwrap());
        assert!(matches!(error, HostError::Refused { .. }) && text.contains("nonesuch"), "{text}");
        // sysfs shows the other namespace here, and the host notices.
        let (text, error) = refused(Setting::link_file("tunv0", "threaded"), "1");
        assert!(matches!(error, HostError::Unsupported { .. }) && text.contains("another network namespace"), "{text}");
        assert_eq!(host.read(&Setting::mtu("tunv0")).unwrap().text(), "1500");
    });
}

#[test]
fn apply_confirm_watch_and_roll_back_by_command() {
    let Some(namespace) = Namespace::new() else { return };
    let site = site(&namespace);
    let Some(before) = namespace.picture() else { return };
    let tune = |arguments: &[&str]| namespace.tune(arguments).unwrap();

    let plan = tune(&with_rules(&["plan"], &site));
    assert_eq!(code(&plan), 0);
    assert!(text(&plan.stdout).contains("tunv0 MTU"), "{}", text(&plan.stdout));
    assert_eq!(namespace.picture().unwrap(), before);

    let applied = tune(&with_rules(&["apply", "--timeout", "10m"], &site));
    assert_eq!(code(&applied), 0, "{}", text(&applied.stderr));
    assert!(text(&applied.stderr).contains("culvert tune confirm"));
    assert!(namespace.ip(&["link", "show", "tunv0"]).contains("mtu 4000"));
    assert_eq!(code(&tune(&with_rules(&["apply"], &site))), 5, "a second one has to wait");
    let status: serde_json::Value = serde_json::from_slice(&tune(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["transactions"][0]["state"], "pending");
    assert_eq!(status["transactions"][0]["guard_alive"], true);

    assert_eq!(code(&tune(&["confirm"])), 0);
    let again = tune(&["confirm"]);
    assert_eq!((code(&again), text(&again.stderr)), (0, "nothing waits to be confirmed\n".into()));
    let applied_already = tune(&with_rules(&["apply"], &site));
    assert_eq!(code(&applied_already), 0);
    assert!(text(&applied_already.stderr).ends_with("\nnothing to do\n"), "{applied_already:?}");

    namespace.ip(&["link", "set", "tunv0", "mtu", "1500"]);
    let watched = tune(&["watch", "--once"]);
    assert!(
        text(&watched.stdout).contains("tunv0 MTU: it is '1500', set again to '4000'"),
        "{}",
        text(&watched.stdout)
    );
    assert!(namespace.ip(&["link", "show", "tunv0"]).contains("mtu 4000"));

    let rolled = tune(&["rollback"]);
    assert_eq!(code(&rolled), 0);
    assert!(text(&rolled.stdout).contains("the host is as it was"), "{}", text(&rolled.stdout));
    assert_eq!(namespace.picture().unwrap(), before);
    let again = tune(&["rollback"]);
    assert_eq!((code(&again), text(&again.stderr)), (0, "nothing is in force that could be rolled back\n".into()));
}

#[test]
fn what_is_not_confirmed_undoes_itself() {
    let Some(namespace) = Namespace::new() else { return };
    let site = site(&namespace);
    let Some(before) = namespace.picture() else { return };
    let applied = namespace.tune(&with_rules(&["apply", "--timeout", "1"], &site)).unwrap();
    assert_eq!(code(&applied), 0, "{}", text(&applied.stderr));
    // Nobody confirms, so only the guard can act.
    until("the rollback by the guard", || journal(&namespace).contains("rolled_back"));
    assert_eq!(namespace.picture().unwrap(), before);
    let confirmed = namespace.tune(&["confirm"]).unwrap();
    assert_eq!(code(&confirmed), 1);
    assert!(text(&confirmed.stderr).contains("not confirmed in time"), "{}", text(&confirmed.stderr));
}

fn journal(namespace: &Namespace) -> String {
    let Ok(entries) = std::fs::read_dir(namespace.state().join("transactions")) else { return String::new() };
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    texts.collect()
}

/// The guard's process, found by the arguments that this test gave it.
fn guard_pid(namespace: &Namespace) -> Option<rustix::process::Pid> {
    let state = namespace.state().display().to_string();
    let mut pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.contains(&state.as_bytes()) && words.contains(&&b"guard"[..])
    })?;
    rustix::process::Pid::from_raw(pid)
}

fn kill(child: &mut Child) {
    // `ip netns exec` becomes the program, so this is its process.
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn kill_at_any_moment_leaves_the_host_as_it_was() {
    let Some(namespace) = Namespace::new() else { return };
    let site = site(&namespace);
    let Some(before) = namespace.picture() else { return };
    let mut in_the_middle = 0;
    for round in 0..16_u64 {
        let mut apply = namespace.command(&with_rules(&["apply", "--timeout", "1"], &site)).unwrap();
        let mut child = apply.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The kills range from right after the snapshot to after the last write. That takes only
        // milliseconds, so this polls the journal without a pause. The first rounds kill earlier.
        let began = Instant::now();
        while round >= 3 && !journal(&namespace).contains("snapshot") {
            assert!(began.elapsed() < Duration::from_secs(30), "no snapshot was taken");
        }
        std::thread::sleep(Duration::from_micros(round.saturating_sub(3) * 200));
        kill(&mut child);
        if round % 3 == 0
            && let Some(guard) = guard_pid(&namespace)
        {
            // The guard dies too, so only the next command can repair the host.
            rustix::process::kill_process(guard, rustix::process::Signal::KILL).unwrap();
        }
        let journal = journal(&namespace);
        in_the_middle += u32::from(journal.contains("snapshot") && !journal.contains("applied"));
        until("the end of the transaction", || {
            let status = namespace.tune(&["status", "--json"]).unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            let transactions = status["transactions"].as_array().unwrap();
            transactions.iter().all(|transaction| transaction["state"] == "rolled_back")
        });
        assert_eq!(namespace.picture().unwrap(), before, "round {round}");
        let _ = std::fs::remove_dir_all(namespace.state());
    }
    eprintln!("{in_the_middle} of 16 kills came between the snapshot and the last write");
    assert!(in_the_middle > 0, "no kill came in the middle of applying");
}

#[test]
fn mistakes_of_people_are_answered() {
    let Some(namespace) = Namespace::new() else { return };
    let Some(before) = namespace.picture() else { return };
    let tune = |site: &str, arguments: &[&str]| {
        let path = namespace.path("mistake.toml");
        std::fs::write(&path, site).unwrap();
        let path = path.display().to_string();
        let output = namespace.tune(&[arguments, &["--site", &path]].concat()).unwrap();
        (code(&output), text(&output.stderr), text(&output.stdout))
    };
    let (code, said, _) = tune("streams = 0\n", &["apply"]);
    assert!(code == 7 && said.contains("mistake.toml") && said.contains("streams"), "{code} {said}");
    let (code, said, _) = tune("[sysctl]\n\"net.ipv4.nope\" = 1\n", &["apply", "--rule", "site.sysctl"]);
    assert!(code == 7 && said.contains("nothing was changed") && said.contains("net.ipv4.nope"), "{code} {said}");
    let (code, said, out) = tune("", &["apply", "--rule", "net.socket_buffers"]);
    assert!(code == 7 && out.contains("on the host: sysctl -w net.core.rmem_max="), "{code} {said} {out}");
    let (code, said, _) = tune("", &["apply", "--rule", "nic.ring"]);
    assert!(code == 2 && said.contains("nic.rings"), "{code} {said}");
    assert_eq!(namespace.picture().unwrap(), before);
}

#[test]
fn a_measurement_leaves_nothing_behind() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.ip(&["link", "set", "lo", "up"]);
    let Some(before) = namespace.picture() else { return };
    let measured = namespace.tune(&[
        "measure",
        "net.tcp_slow_start_after_idle",
        "--pairs",
        "5",
        "--run",
        "1",
        "--json",
        "--",
        "echo",
        "1e9",
    ]);
    let measured = measured.unwrap();
    assert_eq!(code(&measured), 0, "{}", text(&measured.stderr));
    let effect: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(effect["answer"], "no_effect");
    assert_eq!(namespace.picture().unwrap(), before);
    let shown = namespace.tune(&["measure"]).unwrap();
    assert!(text(&shown.stdout).contains("no effect seen in 5 pairs"), "{}", text(&shown.stdout));
    let doctor = example().unwrap();
    let page = Command::new("ip")
        .args(["netns", "exec", &namespace.name])
        .arg(doctor)
        .arg("--state")
        .arg(namespace.state())
        .arg("doctor")
        .output()
        .unwrap();
    assert!(
        text(&page.stdout).contains("measured here: net.tcp_slow_start_after_idle: no effect"),
        "{}",
        text(&page.stdout)
    );
}
