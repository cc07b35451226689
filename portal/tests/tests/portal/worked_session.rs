//! `docs/portal-curl.md`, typed into a shell as it is written.

use std::process::Command;
use std::time::Duration;

use culvert_portal_tests::documents::{Block, blocks};
use culvert_portal_tests::process::{folder, need, or_skip, run_with};
use culvert_portal_tests::program::{PortalOptions, RunningPortal, run};

const PAGE: &str = "portal-curl.md";
/// Longer than all of it takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(300);

/// What `oathtool --totp --base32 SECRET` does (RFC 6238), where it is not installed.
const OATHTOOL: &str = r#"
command -v oathtool > /dev/null || oathtool() {
    python3 -c '
import base64, hashlib, hmac, sys, time
secret = sys.argv[1]
key = base64.b32decode(secret + "=" * (-len(secret) % 8))
tag = hmac.digest(key, (int(time.time()) // 30).to_bytes(8, "big"), hashlib.sha1)
at = tag[-1] & 15
print("%06d" % ((int.from_bytes(tag[at : at + 4], "big") & 0x7FFFFFFF) % 1000000))
' "$3"
}
"#;

#[test]
fn every_block_of_the_page_does_what_it_says() {
    for program in ["curl", "jq", "bash", "python3"] {
        if or_skip(need(program)).is_none() {
            return;
        }
    }
    let found = blocks(PAGE);
    assert!(found.len() > 10);
    for Block { info, line, .. } in &found {
        assert_eq!(info, "sh run", "docs/{PAGE}:{line}: a block that nobody runs will be wrong one day");
    }
    let options = PortalOptions::default();
    let running = RunningPortal::start(&options);
    let mut script = format!("set -euo pipefail\n{OATHTOOL}");
    for block in &found {
        script += &block.text;
        script += &format!("printf '\\ntyped {}\\n'\n", block.line);
    }
    let script =
        script.replace("http://127.0.0.1:7280", &running.url).replace("culvert_lnk_…", &running.setup_secret());
    let room = folder();
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(room.path()).env("LC_ALL", "C.UTF-8");
    let ran = run_with("session", shell, &room, PATIENCE);
    for block in &found {
        assert!(ran.out.contains(&format!("\ntyped {}\n", block.line)), "docs/{PAGE}:{}: {ran:?}", block.line);
    }
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\"v0\""), "{}", ran.out);
    let listed = run(&running.state, &options, ["users", "list"]).succeeds().out;
    for line in ["ada\tactive\tadmin\t-\tsecond-factor", "boole\tactive\tuser\t-\t-", "curie\tactive\tuser\t-\t-"] {
        assert!(listed.lines().any(|found| found == line), "{line}: {listed}");
    }
    assert!(ran.out.contains(",\"user.edit\",") && ran.out.contains(",\"nobody\",\"user.create\"]"), "{}", ran.out);
}
