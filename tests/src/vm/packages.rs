//! The Debian packages that machines are made of, unpacked to `target/vm` without installing them.
//!
//! A pinned version is downloaded and verified by its digest. Debian's servers remove a version
//! when the next one is released; then `apt-get` downloads the present one and verifies its
//! signature.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::repository;

const SERVER: &str = "https://deb.debian.org";

/// A Debian package for x86-64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Package {
    pub(super) name: &'static str,
    /// The path of the pinned version on Debian's servers.
    path: &'static str,
    /// Its SHA-256 digest.
    digest: &'static str,
}

/// A Linux kernel that is an ordinary program.
pub(super) const USER_MODE_LINUX: Package = Package {
    name: "user-mode-linux",
    path: "debian/pool/main/u/user-mode-linux/user-mode-linux_6.1um4+b13_amd64.deb",
    digest: "0ce700f835c385ab09860ad33137817402403a29e424177510244bd75a81c687",
};

/// A shell and the usual programs in one static program.
pub(super) const BUSYBOX: Package = Package {
    name: "busybox-static",
    path: "debian/pool/main/b/busybox/busybox-static_1.35.0-4+deb12u1+b1_amd64.deb",
    digest: "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744",
};

/// A kernel of a distribution, with write tracking.
pub(super) const KERNEL: Package = Package {
    name: "linux-image-6.12.117+deb12-cloud-amd64",
    path: "debian-security/pool/updates/main/l/linux-signed-6.12-amd64/linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64.deb",
    digest: "5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37",
};

impl Package {
    /// Returns the folder with the unpacked package. The error is the reason why it cannot be had,
    /// which is a reason to skip a test.
    pub(super) fn unpacked(&self) -> Result<PathBuf, String> {
        let cache = repository().join("target/vm");
        let folder = cache.join(format!("{}-{}", self.name, &self.digest[..8]));
        let failed = |error| format!("{}: {error}", cache.display());
        fs::create_dir_all(&cache).map_err(failed)?;
        // Of two runs at once, one downloads and the other waits.
        let lock = File::create(cache.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if !folder.is_dir() {
            let scratch = tempfile::tempdir_in(&cache).map_err(failed)?;
            let package = self.download(scratch.path())?;
            let unpacked = scratch.path().join("unpacked");
            fs::create_dir(&unpacked).map_err(failed)?;
            unpack(&package, &unpacked)?;
            fs::rename(&unpacked, &folder).map_err(failed)?;
        }
        Ok(folder)
    }

    fn download(&self, folder: &Path) -> Result<PathBuf, String> {
        self.pinned(folder).or_else(|pinned| {
            self.present(folder)
                .map_err(|present| format!("no package {}: {pinned}; {present}", self.name))
        })
    }

    /// Downloads the pinned version.
    fn pinned(&self, folder: &Path) -> Result<PathBuf, String> {
        let package = folder.join("pinned.deb");
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--silent", "--show-error", "--location"])
            .args(["--connect-timeout", "5", "--max-time", "180", "--output"])
            .arg(&package)
            .arg(format!("{SERVER}/{}", self.path));
        run(&mut curl)?;
        let digest = run(Command::new("sha256sum").arg(&package))?;
        match digest.starts_with(self.digest) {
            true => Ok(package),
            false => Err(format!("{SERVER}/{} has another digest", self.path)),
        }
    }

    /// Downloads the version that Debian has now, with package lists of its own, because those of
    /// the machine can be missing or old.
    fn present(&self, folder: &Path) -> Result<PathBuf, String> {
        let lists = folder.join("lists");
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command
                .current_dir(folder)
                .args(["-qq", "-o", "Acquire::Retries=0"])
                .args(["-o", "Acquire::http::Timeout=10"])
                .arg(format!("-oDir::State::lists={}", lists.display()))
                .arg(format!("-oDir::Cache={}", folder.join("cache").display()))
                .args(arguments);
            run(&mut command)
        };
        apt(&["update"])?;
        apt(&["download", self.name])?;
        let files = fs::read_dir(folder).map_err(|error| error.to_string())?;
        let mut files = files.filter_map(|entry| Some(entry.ok()?.path()));
        let is_package = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(self.name) && name.ends_with(".deb"))
        };
        files
            .find(is_package)
            .ok_or_else(|| format!("apt-get downloaded no {}", self.name))
    }
}

fn unpack(package: &Path, folder: &Path) -> Result<(), String> {
    let mut dpkg = Command::new("dpkg-deb");
    let dpkg = run(dpkg.arg("--extract").arg(package).arg(folder));
    dpkg.map(drop).or_else(|dpkg| {
        // Without Debian's program: a package is an archive of `ar` with an archive of `tar`.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "ar p \"$0\" data.tar.xz | tar -xJ -C \"$1\""])
            .args([package, folder]);
        run(&mut shell)
            .map(drop)
            .map_err(|ar| format!("{dpkg}; {ar}"))
    })
}

/// Runs a program that must succeed. Returns its stdout; the error is its last line on stderr.
pub(super) fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().display().to_string();
    let output = command
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().rev().find(|line| !line.trim().is_empty());
            Err(format!("{program}: {}", why.unwrap_or("failed").trim()))
        }
    }
}
