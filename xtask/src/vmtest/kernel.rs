//! The newest cloud kernel of Debian's backports, downloaded by apt into a folder of its own:
//! nothing on the host changes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The suite whose kernel's `virtio_net` has zero copy in both directions.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main\n";
/// Drivers of the NICs and of VLANs, each after what it needs; everything else is built in.
const MODULES: [&str; 8] = [
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/802/garp.ko",
    "net/802/mrp.ko",
    "net/8021q/8021q.ko",
];

/// A kernel, unpacked.
#[derive(Debug)]
pub struct Kernel {
    /// What boots.
    pub image: PathBuf,
    /// Its drivers, as packed as they came.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// The kernel in `folder`, downloaded if there is none yet.
    pub fn find(folder: &Path) -> anyhow::Result<Self> {
        if let Some(kernel) = Self::in_tree(&folder.join("tree")) {
            return Ok(kernel);
        }
        download(folder)?;
        Self::in_tree(&folder.join("tree")).context("the packages have no kernel or not its drivers")
    }

    fn in_tree(tree: &Path) -> Option<Self> {
        let versions = std::fs::read_dir(tree.join("usr/lib/modules")).ok()?;
        let version = versions.flatten().map(|entry| entry.path()).find(|path| path.join("kernel").is_dir())?;
        let image =
            ["vmlinuz.unsigned", "vmlinuz"].map(|name| version.join(name)).into_iter().find(|path| path.is_file())?;
        let module = |name: &&str| {
            let path = version.join("kernel").join(name);
            ["", ".xz"]
                .map(|end| PathBuf::from(format!("{}{end}", path.display())))
                .into_iter()
                .find(|path| path.is_file())
        };
        let modules = MODULES.iter().map(module).collect::<Option<Vec<_>>>()?;
        Some(Self { image, modules })
    }
}

/// A module's bytes as the kernel loads them.
pub fn unpacked(module: &Path) -> anyhow::Result<Vec<u8>> {
    if module.extension().is_none_or(|end| end != "xz") {
        return Ok(std::fs::read(module)?);
    }
    let unpacked = Command::new("xz").args(["--decompress", "--stdout"]).arg(module).output().context("xz")?;
    if !unpacked.status.success() {
        bail!("xz: {}", String::from_utf8_lossy(&unpacked.stderr));
    }
    Ok(unpacked.stdout)
}

fn download(folder: &Path) -> anyhow::Result<()> {
    let apt = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(apt.join(part))?;
    }
    std::fs::write(apt.join("sources.list"), SOURCE)?;
    let options = [
        format!("-oDir::Etc::SourceList={}", apt.join("sources.list").display()),
        "-oDir::Etc::SourceParts=/dev/null".to_owned(),
        format!("-oDir::State::Lists={}", apt.join("lists").display()),
        format!("-oDir::Cache={}", apt.join("cache").display()),
        "-oAPT::Architecture=amd64".to_owned(),
        "-oAPT::Sandbox::User=root".to_owned(),
    ];
    output(Command::new("apt-get").args(&options).args(["-q", "update"]))?;
    let names = output(Command::new("apt-cache").args(&options).args([
        "search",
        "--names-only",
        "linux-binary-.*-cloud-amd64$",
    ]))?;
    let image = newest(&names).context("the suite has no cloud kernel")?;
    let modules = image.replace("linux-binary-unsigned-", "linux-modules-").replace("linux-binary-", "linux-modules-");
    let archives = apt.join("archives");
    let _ = std::fs::remove_dir_all(&archives);
    std::fs::create_dir(&archives)?;
    println!("downloading {image}");
    output(Command::new("apt-get").args(&options).args(["-q", "download", &image, &modules]).current_dir(&archives))?;
    for package in std::fs::read_dir(&archives)?.flatten() {
        output(Command::new("dpkg").arg("-x").arg(package.path()).arg(folder.join("tree")))?;
    }
    std::fs::remove_dir_all(&archives)?;
    Ok(())
}

/// The name with the highest version of those that `apt-cache search` lists.
fn newest(listing: &str) -> Option<String> {
    let version = |name: &str| -> Vec<u64> {
        let numbers = name.split(|character: char| !character.is_ascii_digit());
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    let names = listing.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("linux-binary-")).max_by_key(|name| version(name)).map(str::to_owned)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_the_newest() {
        let listing = "linux-binary-unsigned-7.2.9+deb13-cloud-amd64 - Linux\n\
                       linux-binary-unsigned-7.2.12+deb13-cloud-amd64 - Linux\n\
                       linux-headers-7.9.1+deb13-cloud-amd64 - Linux\n";
        assert_eq!(newest(listing).as_deref(), Some("linux-binary-unsigned-7.2.12+deb13-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
