//! The unit that `packaging/` ships: as strict as promised, and understood.

use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_portal_tests::process::{attempt, folder, need, or_skip};
use culvert_portal_tests::program::portal;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd/culvert-portal.service")
}

#[test]
fn its_exposure_is_at_most_1_3() {
    let Some(program) = or_skip(need("systemd-analyze")) else { return };
    let mut command = Command::new(program);
    command.args(["security", "--offline=true"]).arg(unit()).env("LC_ALL", "C.UTF-8");
    let judged = attempt(&mut command).unwrap();
    let line = judged.lines().find(|line| line.contains("Overall exposure level")).expect("a judgment");
    let number = line.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a number");
    assert!(number.parse::<f64>().expect("a number") <= 1.3, "{line}");
}

#[test]
fn systemd_understands_every_line_and_needs_no_account() {
    let text = std::fs::read_to_string(unit()).unwrap();
    assert!(text.contains("\nDynamicUser=yes\n") && !text.contains("\nUser="), "it has no account of its own");
    // Its database may come much later: systemd does not give up.
    assert!(text.contains("\nStartLimitIntervalSec=0\n"));
    understands(&text);
}

#[test]
fn systemd_understands_the_drop_ins_of_the_documentation() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/portal-operations.md");
    let document = std::fs::read_to_string(document).unwrap();
    let blocks = document.split("```ini\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let drop_in = blocks.into_iter().find(|block| block.contains("CAP_NET_BIND_SERVICE")).expect("one for port 443");
    for line in ["AmbientCapabilities=CAP_NET_BIND_SERVICE", "PrivateUsers=no", "LoadCredential=certificate:"] {
        assert!(drop_in.contains(line), "no {line}");
    }
    understands(&format!("{}\n{drop_in}", std::fs::read_to_string(unit()).unwrap()));
}

fn understands(text: &str) {
    let Some(program) = or_skip(need("systemd-analyze")) else { return };
    // The program is where this test has it.
    let room = folder();
    let here = room.path().join("culvert-portal.service");
    std::fs::write(&here, text.replace("/usr/bin/culvert-portal", &portal().display().to_string())).unwrap();
    let verified = Command::new(program).args(["verify", "--man=no"]).arg(&here).output().unwrap();
    let said = [verified.stdout, verified.stderr].concat();
    assert!(verified.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
