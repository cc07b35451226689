//! An admin's first hour: the package on a bare Debian, set up as `docs/operations.md` describes,
//! and what becomes of it. There is no service manager: its units are verified there, and what they
//! start is started by hand.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::debian_root;
use culvert_tests::documents::blocks;
use culvert_tests::host_root::{self, HostRoot, Program};
use culvert_tests::lab::{self, Lab};
use culvert_tests::node::{RunningNode, key_of, wait_for};
use culvert_tests::program::{command, culvert, is_installed};
use culvert_tests::units::Unit;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn package(room: &Path) -> PathBuf {
    let package = xtask::deb::Package {
        workspace: workspace(),
        program: culvert().to_owned(),
        maintainer: xtask::deb::MAINTAINER.to_owned(),
        revision: 1,
    };
    package.build(room).unwrap()
}

/// The same package with a higher revision, without the time that packing takes.
fn next_revision(package: &Path) -> PathBuf {
    let (tree, next) = (package.with_extension("tree"), package.with_file_name("next.deb"));
    let dpkg = |arguments: &[&std::ffi::OsStr]| {
        assert!(Command::new("dpkg-deb").args(arguments).output().unwrap().status.success(), "{arguments:?}");
    };
    dpkg(&["-R".as_ref(), package.as_os_str(), tree.as_os_str()]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    let higher = format!("{}-2", version.strip_suffix("-1").unwrap());
    fs::write(&control, text.replace(version, &higher)).unwrap();
    dpkg(&["--root-owner-group".as_ref(), "-Znone".as_ref(), "--build".as_ref(), tree.as_os_str(), next.as_os_str()]);
    next
}

/// The lines that the documents tell an admin of a Debian to type.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(workspace().join("docs/operations.md")).unwrap();
    let lines = blocks(&text).into_iter().filter(|block| block.info == "sh run debian").flat_map(|block| block.lines);
    lines.map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()).collect()
}

/// The node and its data plane, as their units start them.
struct Units {
    _plane: Program,
    _node: Program,
}

impl Units {
    fn start(debian: &HostRoot) -> Self {
        let (node, plane) = (Unit::shipped("culvert.service"), Unit::shipped("culvert-dataplane@.service"));
        let socket = Unit::shipped("culvert-dataplane.socket").one("ListenSequentialPacket").to_owned();
        let as_user = |unit: &Unit| {
            let (user, group) = (format!("--reuid={}", unit.one("User")), format!("--regid={}", unit.one("Group")));
            vec!["setpriv".to_owned(), user, group, "--clear-groups".to_owned()]
        };
        let words = |unit: &Unit| unit.one("ExecStart").split(' ').map(str::to_owned).collect::<Vec<_>>();
        let listen = format!("--listen={socket}");
        let activate = ["systemd-socket-activate", "--seqpacket", "--accept", "--inetd", &listen].map(str::to_owned);
        // systemd removes an existing one.
        let _ = debian.run(&format!("rm -f {socket} /var/lib/culvert/node.json")).exits(0);
        let start = |words: Vec<String>| debian.start_program(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let plane = start([activate.to_vec(), as_user(&plane), words(&plane)].concat());
        wait_for("the data plane's socket", || debian.run(&format!("test -S {socket}")).code.eq(&0).then_some(()));
        let owned = debian.run(&format!("chown culvert:culvert {socket} && chmod 600 {socket}"));
        let _ = owned.exits(0);
        let variables = node.one("Environment").split(' ').map(str::to_owned).collect();
        let running = start([as_user(&node), vec!["env".to_owned()], variables, words(&node)].concat());
        wait_for("the node", || debian.path("var/lib/culvert/node.json").exists().then_some(()));
        Self { _plane: plane, _node: running }
    }
}

#[test]
fn a_bare_debian_becomes_a_node_and_none_again() {
    if let Some(why) = host_root::missing().or_else(lab::missing) {
        eprintln!("skipped: {why}");
        return;
    }
    if let Some(program) = ["dpkg-deb", "strip"].into_iter().find(|program| !is_installed(program)) {
        eprintln!("skipped: {program} is not installed");
        return;
    }
    let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
    fs::set_permissions(room.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = room.path().join("debian");
    if let Err(why) = debian_root::unpack(&root) {
        eprintln!("skipped: there is no bare Debian: {why}");
        return;
    }
    let Some(lab) = Lab::new(1500) else { return };
    let hosts = "127.0.0.1 localhost\n10.96.0.1 dtn.lab-a.org\n10.96.0.2 dtn.lab-b.org\n";
    fs::write(root.join("etc/hosts"), hosts).unwrap();
    // The root has what the package needs; what it only recommends would have to be downloaded.
    fs::write(
        root.join("etc/apt/apt.conf.d/99test"),
        "APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n",
    )
    .unwrap();
    fs::write(root.join("etc/dpkg/dpkg.cfg.d/test"), "force-unsafe-io\n").unwrap();
    let debian = HostRoot::start(&root, &lab.names()[0], &[]);

    // The partner is not under test: it is set up with the program as it is.
    let partner = room.path().join("partner");
    let incoming = room.path().join("incoming");
    fs::create_dir(&incoming).unwrap();
    let partners_key = key_of(&partner);
    let at_partner = |arguments: &[&str]| lab.inside(1, &command(&partner, arguments));
    let mut starting = at_partner(&["node", "--ports", "any", "--metrics", "off"]);
    let _partner_runs = RunningNode::start(&partner, &mut starting);

    let install = |file: &Path| {
        let name = file.file_name().unwrap().to_str().unwrap();
        fs::copy(file, root.join("root").join(name)).unwrap();
        name.to_owned()
    };
    let first = package(room.path());
    let deb = install(&first);
    let typed = documented();
    assert!(typed.len() > 5, "docs/operations.md says little: {typed:?}");
    let mut units = None;
    for line in &typed {
        if line.starts_with("systemctl enable --now ") {
            units = Some(Units::start(&debian));
            continue;
        }
        if line.starts_with("culvert profile verify ") {
            // The other half is up to the partner's admin, using the line that the invitation
            // printed.
            let shown = debian.run("culvert profile invite --name lab-a --address dtn.lab-a.org").exits(0).out;
            let mut add = Command::new(culvert());
            add.arg("--state").arg(&partner).args(shown.trim().split(' ').skip(1));
            let permit = format!("{}:both", incoming.display());
            assert!(add.args(["--permit", &permit]).output().unwrap().status.success(), "{shown}");
            // The partner is on this host, whose hosts file is not the test's to change.
            let moved = command(&partner, ["profile", "edit", "lab-a", "--address", "10.96.0.1"]).output().unwrap();
            assert!(moved.status.success());
        }
        let line = line.replace("culvert_VERSION_ARCHITECTURE.deb", &deb).replace("KEY", &partners_key);
        let ran = debian.run(&format!("cd /root && mkdir -p /data/incoming && {line}"));
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        if line.starts_with("apt") {
            let _ = debian.run("chown culvert:culvert /data/incoming").exits(0);
            let state = fs::metadata(debian.path("var/lib/culvert")).unwrap();
            assert_eq!(state.permissions().mode() & 0o7777, 0o700, "{ran:?}");
            assert_ne!(state.uid(), 0);
        }
    }
    assert!(units.is_some(), "the documents do not start the node: {typed:?}");
    let key = |host: &HostRoot| host.run("culvert identity --json").exits(0).json()["key"].as_str().unwrap().to_owned();
    let nodes = key(&debian);

    // There and back: by the node, and by the partner.
    fs::create_dir(debian.path("data/out")).unwrap();
    fs::write(debian.path("data/out/file"), vec![5; 3 << 20]).unwrap();
    let submit = format!("culvert transfer submit /data/out lab-b:{}", incoming.display());
    let id = debian.run(&submit).exits(0).out;
    let _ = debian.run(&format!("culvert transfer wait {}", id.trim())).exits(0);
    assert_eq!(fs::read(incoming.join("out/file")).unwrap(), vec![5; 3 << 20]);
    let send = |name: &str| {
        let source = room.path().join(name);
        fs::write(&source, name).unwrap();
        let sent = at_partner(&["send", source.to_str().unwrap(), "lab-a:/data/incoming"]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        assert_eq!(fs::read_to_string(debian.path("data/incoming").join(name)).unwrap(), name);
    };
    send("before");

    // systemd understands everything that it would read there.
    let units_of = "/lib/systemd/system/culvert*";
    let verified = debian.run(&format!("systemd-analyze verify --man=no {units_of}")).exits(0);
    assert!(!verified.err.contains("culvert"), "{verified:?}");

    // A higher revision finds what was there before.
    drop(units);
    let deb = install(&next_revision(&first));
    let upgraded = debian.run(&format!("cd /root && apt install -y ./{deb}")).exits(0);
    assert!(!upgraded.out.contains("deinstall"), "{upgraded:?}");
    let _ = debian.run("dpkg --verify culvert").exits(0);
    assert!(debian.run("dpkg-query -W culvert").exits(0).out.trim().ends_with("-2"));
    assert_eq!(key(&debian), nodes);
    let units = Units::start(&debian);
    send("after");
    drop(units);

    // Removed, then purged: only the admin may remove the key.
    let _ = debian.run("apt remove -y culvert").exits(0);
    assert!(!debian.path("usr/bin/culvert").exists() && debian.path("etc/culvert/culvert.toml").exists());
    let purged = debian.run("apt purge -y culvert").exits(0);
    assert!(format!("{}{}", purged.out, purged.err).contains("remain in /var/lib/culvert"), "{purged:?}");
    assert!(!debian.path("etc/culvert/culvert.toml").exists() && !debian.path("usr/share/doc/culvert").exists());
    assert!(debian.path("var/lib/culvert/identity.pk8").exists());
}
