//! A full disk under SQLite: told, nothing lost, and all is well again when there is room.

use std::path::PathBuf;
use std::process::Command;

use culvert_portal_tests::process::{attempt, folder};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use serde_json::json;
use tempfile::TempDir;

use crate::{all_rows, is_unavailable, until};

/// A small disk, gone with the test.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let disk = Self(folder());
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]).arg(disk.0.path());
        match attempt(&mut command) {
            Ok(_) => Some(disk),
            Err(why) => {
                eprintln!("skipped: no small disk: {why}");
                None
            }
        }
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let Some(disk) = Disk::mount() else { return };
    let options = PortalOptions::default();
    let running = RunningPortal::start_again(&disk.state(), &options);
    let mut admin = running.with_admin();
    // A filler leaves little; the portal takes the rest.
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![1; 2_200_000]).unwrap();
    let mut made = Vec::new();
    let mut full = None;
    for number in 0..20_000 {
        let name = format!("group-{number:05}");
        let body = json!({ "name": name, "description": "x".repeat(500), "members": [] });
        let answer = admin.post("/groups", &body);
        match answer.status {
            201 => made.push(name),
            _ => {
                full = Some(answer);
                break;
            }
        }
    }
    let full = full.expect("the disk is full at some time");
    assert!(is_unavailable(&full), "{} {}", full.status, full.text());
    assert!(full.text().contains("disk is full"), "{}", full.text());
    println!("full after {} groups", made.len());
    // What is there can be read.
    assert_eq!(admin.get("/groups?limit=10").status, 200);
    std::fs::remove_file(&filler).unwrap();
    until("there is room again", || admin.post("/groups", &json!({ "name": "after", "members": [] })).status == 201);
    made.push("after".to_owned());
    let mut there: Vec<String> =
        all_rows(&mut admin, "/groups").iter().map(|group| group["name"].as_str().unwrap().to_owned()).collect();
    there.sort();
    made.sort();
    assert_eq!(there, made, "what was answered with 201, and nothing else");
    let verified = running.run(&options, ["audit", "verify"]).succeeds();
    assert!(verified.out.contains("is whole"), "{}", verified.out);
    until("everything has its number", || {
        let told = admin.get("/audit?action=group.edit&limit=1").json();
        told["items"][0]["entry"]["after"]["name"] == "after"
    });
}
