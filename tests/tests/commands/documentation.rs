//! What the documents say, done: their commands are typed exactly as written on two hosts of the
//! test, their settings are read by the program, and their links lead somewhere.
//!
//! Words in capitals stand for what only the reader knows: `KEY` is the other host's key,
//! `SHA256:…` that of a host that has asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use culvert_node::settings::Settings;
use culvert_tests::documents::{Block, blocks, dead_links};
use culvert_tests::host_root::{self, HostRoot, Program};
use culvert_tests::lab::{self, Lab};
use culvert_tests::node::wait_for;
use culvert_tests::program::{Ran, culvert};

/// The documents for users, whose commands are run.
const RUN: [&str; 7] = [
    "README.md",
    "docs/operations.md",
    "docs/path.md",
    "docs/tuning.md",
    "docs/af-xdp.md",
    "docs/faults.md",
    "docs/security.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn blocks_of(document: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(root().join(document)).unwrap())
}

#[test]
fn links_lead_somewhere() {
    let dead = dead_links(&root());
    assert!(dead.is_empty(), "dead links: {dead:#?}");
}

/// A command that nothing runs will be wrong one day.
#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    for document in RUN {
        for block in blocks_of(document) {
            let place = format!("{document}:{}", block.line);
            let has_command = block.lines.iter().any(|line| {
                let line = line.trim_start_matches(['#', '$', ' ']);
                ["culvert ", "cargo ", "systemctl ", "apt "].iter().any(|program| line.starts_with(program))
            });
            match (block.info.as_str(), &block.not_run) {
                ("sh run" | "sh run debian" | "console run", None) => assert!(has_command, "{place} runs nothing"),
                ("sh" | "console" | "text", Some(why)) => assert!(why.len() > 5, "{place} does not say why"),
                // The command that opens an editor is in a comment.
                ("toml" | "json" | "ini", None) => {}
                ("text", None) => assert!(!has_command, "{place} has commands: mark it as run, or say why not"),
                (info, _) => panic!("{place}: ```{info} is neither run, nor says why not"),
            }
        }
    }
}

#[test]
fn settings_in_documents_are_settings() {
    for document in ["docs/operations.md", "docs/path.md"] {
        for block in blocks_of(document).iter().filter(|block| block.info == "toml") {
            let read = Settings::from_toml(&block.lines.join("\n"), Path::new(document));
            assert!(read.is_ok(), "{document}:{}: {}", block.line, read.unwrap_err());
        }
    }
}

/// A host that has the program and the other host's address.
struct Host {
    root: HostRoot,
    node: Option<Program>,
}

impl Host {
    fn start(room: &Path, name: &str, namespace: &str) -> Self {
        let root = room.join(name);
        for directory in
            ["etc", "usr", "opt/bin", "root", "var/lib", "var/tmp", "data/incoming", "data/outgoing", "src"]
        {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for directory in ["bin", "sbin", "lib", "lib64"] {
            // On a host whose programs are all below /usr.
            if let Ok(target) = fs::read_link(Path::new("/").join(directory)) {
                symlink(target, root.join(directory)).unwrap();
            }
        }
        for file in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
            let _ = fs::copy(Path::new("/etc").join(file), root.join("etc").join(file));
        }
        let hosts = "127.0.0.1 localhost\n10.96.0.1 dtn.lab-a.org\n10.96.0.2 dtn.lab-b.org dtn.example.org\n";
        fs::write(root.join("etc/hosts"), hosts).unwrap();
        fs::copy(culvert(), root.join("opt/bin/culvert")).unwrap();
        let source = self::root();
        let root = HostRoot::start(&root, namespace, &[(Path::new("/usr"), "/usr"), (&source, "/src")]);
        Self { root, node: None }
    }

    /// Runs a line as a user types it in the home directory.
    fn type_line(&self, line: &str) -> Ran {
        self.root.run(&format!("PATH=/opt/bin:$PATH; cd /root; {line}"))
    }

    fn must(&self, line: &str) -> Ran {
        let ran = self.type_line(line);
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        ran
    }

    fn start_node(&mut self) {
        let running = self.root.path("root/.local/state/culvert/node.json");
        if self.node.is_none() {
            self.node = Some(self.root.start_program(&["/opt/bin/culvert", "node"]));
            wait_for("the node", || running.exists().then_some(()));
        }
    }

    fn key(&self) -> String {
        self.must("culvert identity --json init").json()["key"].as_str().unwrap().to_owned()
    }
}

/// The reader's host and the partner's.
struct World {
    here: Host,
    there: Host,
    _lab: Lab,
    _room: tempfile::TempDir,
}

impl World {
    fn new() -> Option<Self> {
        if let Some(why) = host_root::missing().or_else(lab::missing) {
            eprintln!("skipped: {why}");
            return None;
        }
        if fs::read_link("/bin").is_err() {
            eprintln!("skipped: this host's programs do not all lie below /usr");
            return None;
        }
        let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
        let lab = Lab::new(1500)?;
        let [here, there] = [("here", &lab.names()[0]), ("there", &lab.names()[1])]
            .map(|(name, namespace)| Host::start(room.path(), name, namespace));
        let _ = here.must("mkdir run-42 && echo data > run-42/file");
        let _ = there.must("mkdir /data/results && echo result > /data/results/file");
        let world = Self { here, there, _lab: lab, _room: room };
        world.stand_in_for_ssh();
        Some(world)
    }

    /// What ssh does, as far as the program can tell: it names the host, and runs a command there.
    fn stand_in_for_ssh(&self) {
        let script = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do [ \"$word\" = -G ] && {{ echo 'hostname dtn.example.org'; exit 0; }}; done\n\
             while [ \"$1\" != -- ]; do shift; done\n\
             shift 2\n\
             exec nsenter --target={} --mount --net --root --wd -- env HOME=/root CULVERT_STATE=/root/of-ssh \
             SSH_CONNECTION='10.96.0.1 1 10.96.0.2 22' sh -c \"cd; $*\"\n",
            self.there.root.process_id()
        );
        let path = self.here.root.path("opt/bin/ssh");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Types the commands of a block in a document; the block is identified by its first words.
    fn type_block(&mut self, document: &str, first: &str) {
        let is_it = |block: &Block| block.info == "sh run" && block.lines.iter().any(|line| line.starts_with(first));
        let block = blocks_of(document).into_iter().find(is_it).expect("a block begins like this");
        let mut hosts = vec!["here"];
        for line in &block.lines {
            match line.trim() {
                "" => {}
                text if text.starts_with("# on both hosts") => hosts = vec!["here", "there"],
                text if text.starts_with("# there") => hosts = vec!["there"],
                text if text.starts_with("# here") => hosts = vec!["here"],
                text if text.starts_with('#') => {}
                text => {
                    let command = text.split(" #").next().unwrap_or_default().trim();
                    for host in &hosts {
                        self.type_command(&format!("{document}:{}", block.line), host, command);
                    }
                }
            }
        }
    }

    fn type_command(&mut self, place: &str, host: &str, command: &str) {
        let (host, other) = if host == "here" { (&mut self.here, &self.there) } else { (&mut self.there, &self.here) };
        if command == "culvert node" {
            return host.start_node();
        }
        let mut line = command.to_owned();
        if line.contains("KEY") {
            line = line.replace("KEY", &other.key());
        }
        if line.contains("SHA256:…") {
            let pending = host.must("culvert profile pending --json").json();
            line = line.replace("SHA256:…", pending[0]["fingerprint"].as_str().expect("a key has asked"));
        }
        eprintln!("{place}: {line}");
        let ran = host.type_line(&line);
        // A busy machine cannot measure everything, which that code reports.
        let is_partial = command.starts_with("culvert path check") && ran.code == 6;
        assert!(ran.code == 0 || is_partial, "{place}: {line}: {ran:?}");
        if command.contains("profile invite") {
            // That line is for the partner's admin, who decides what this host may do there.
            let _ = other.must(&format!("{} --permit /data/incoming:both", ran.out.trim()));
        }
    }
}

/// What the tests below type. A new block must be typed by one of them, too.
const TYPED: [(&str, &str); 4] = [
    ("README.md", "culvert send ./run-42 you@"),
    ("README.md", "culvert node"),
    ("docs/operations.md", "culvert identity  "),
    ("docs/path.md", "culvert path check"),
];

#[test]
fn no_block_is_marked_as_run_that_no_test_types() {
    for document in RUN {
        let marked = blocks_of(document).iter().filter(|block| block.info == "sh run").count();
        assert_eq!(marked, TYPED.iter().filter(|(of, _)| *of == document).count(), "{document}");
    }
}

#[test]
fn the_readmes_commands_over_ssh_do_what_it_says() {
    let Some(mut world) = World::new() else { return };
    world.type_block(TYPED[0].0, TYPED[0].1);
    assert_eq!(world.there.must("cat /data/incoming/run-42/file").out, "data\n");
    assert_eq!(world.here.must("cat results/file").out, "result\n");
}

#[test]
fn the_readmes_commands_between_nodes_do_what_it_says() {
    let Some(mut world) = World::new() else { return };
    world.type_block(TYPED[1].0, TYPED[1].1);
    assert_eq!(world.there.must("cat /data/incoming/run-42/file").out, "data\n");
}

#[test]
fn the_commands_of_the_operations_page_do_what_it_says() {
    let Some(mut world) = World::new() else { return };
    world.here.start_node();
    world.there.start_node();
    // Somebody whom this host does not know asks.
    let stranger = "culvert --state /root/third";
    let key = world.here.key();
    let _ = world.there.must(&format!("{stranger} profile add lab-a --key {key} --address dtn.lab-a.org"));
    let refused = world.there.type_line(&format!("{stranger} profile verify lab-a"));
    assert_eq!(refused.code, 4, "{refused:?}");
    world.type_block(TYPED[2].0, TYPED[2].1);
    let approved = world.here.must("culvert profile show lab-c --json").json();
    assert_eq!(approved["addresses"][0], "10.96.0.2:7272", "{approved}");
}

#[test]
fn the_commands_of_the_path_page_do_what_it_says() {
    let Some(mut world) = World::new() else { return };
    world.there.start_node();
    let (ours, theirs) = (world.here.key(), world.there.key());
    let _ = world.here.must(&format!("culvert profile add lab --key {theirs} --address dtn.lab-b.org"));
    let _ = world.there.must(&format!("culvert profile add lab-a --key {ours}"));
    world.type_block(TYPED[3].0, TYPED[3].1);
}

/// The consoles on the tuning page show what the program shows.
#[test]
fn the_consoles_of_the_tuning_page_show_what_is_shown() {
    let found: Vec<Block> =
        blocks_of("docs/tuning.md").into_iter().filter(|block| block.info == "console run").collect();
    assert!(!found.is_empty());
    for block in found {
        let mut lines = block.lines.iter();
        let command = lines.next().and_then(|line| line.strip_prefix("$ culvert ")).expect("a command");
        let room = tempfile::tempdir().unwrap();
        let mut typed = culvert_tests::program::command(room.path(), command.split(' '));
        let ran: Ran = typed.current_dir(root()).output().unwrap().into();
        let shown: Vec<&str> = ran.out.lines().map(str::trim).collect();
        // An ellipsis stands for omitted lines, or for the rest of a line.
        for line in lines.map(|line| line.trim()).filter(|line| *line != "…") {
            let is_shown = match line.strip_suffix("…)") {
                Some(beginning) => shown.iter().any(|shown| shown.starts_with(beginning)),
                None => shown.contains(&line),
            };
            assert!(is_shown, "docs/tuning.md:{}: '{line}' is not in:\n{}", block.line, ran.out);
        }
    }
}
