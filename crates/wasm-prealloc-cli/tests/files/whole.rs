//! Outputs are whole or missing if the process is killed or the disk is full.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wasm_prealloc_tests::skipped;

use crate::harness::{Folder, GROWING, assert_exit, assert_pinned, assert_stderr_contains, names};

/// Returns a module of 4 MiB, so that writing takes a while.
fn large() -> Vec<u8> {
    let data = "x".repeat(4 << 20);
    wat::parse_str(format!(
        "(module (memory 100) (data (i32.const 0) \"{data}\"))"
    ))
    .unwrap()
}

#[test]
fn a_killed_batch_leaves_whole_files_only() {
    let module = large();
    let folder = Folder::with(&["in/000.wasm"], &module);
    for i in 1..60 {
        let name = folder.path(&format!("in/{i:03}.wasm"));
        fs::hard_link(folder.path("in/000.wasm"), name).unwrap();
    }
    let mut command = folder.command("rewrite in --out-dir made -j2");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    let made = folder.path("made");
    let finished = || {
        let entries = fs::read_dir(&made).into_iter().flatten().flatten();
        entries
            .filter(|e| e.path().extension().is_some_and(|e| e == "wasm"))
            .count()
    };
    while finished() < 3 && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        None,
        "it was done before it was killed"
    );
    let mut whole = 0;
    for name in names(&made) {
        if name.starts_with(".wasm-prealloc-") {
            continue;
        }
        assert!(name.ends_with(".wasm"), "{name}");
        let wasm = fs::read(made.join(&name)).unwrap();
        assert!(wasm.len() > module.len(), "{name} is cut");
        assert_pinned(&wasm);
        whole += 1;
    }
    assert!((3..60).contains(&whole), "{whole}");
    assert_eq!(names(&folder.path("in")).len(), 60);
    assert_eq!(folder.read("in/000.wasm"), module);
    // The temporary files that were left do no harm.
    folder.run("rewrite in/000.wasm in/059.wasm --out-dir made -q");
    folder.run("verify -q made");
}

/// A file system of 1 MiB, which is unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts the file system, or returns the reason why that failed.
    fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "wasm-prealloc-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self { folder }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_the_earlier_file() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("a_full_disk_leaves_the_earlier_file: {why}")),
    };
    let disk = disk.folder.path();
    let folder = Folder::with(&["large.wasm"], large());
    folder.write("small.wat", GROWING);
    fs::write(disk.join("large.wasm"), "the earlier file").unwrap();
    folder.fails(
        &format!("rewrite large.wasm small.wat --out-dir {}/", disk.display()),
        "large.wasm: No space left on device",
    );
    assert_eq!(names(disk), ["large.wasm", "small.wasm"]);
    let earlier = fs::read(disk.join("large.wasm")).unwrap();
    assert_eq!(earlier, b"the earlier file");
    assert_pinned(&fs::read(disk.join("small.wasm")).unwrap());
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    if !Path::new("/dev/full").exists() {
        return skipped("a_report_that_cannot_be_written_is_an_error: no /dev/full");
    }
    let folder = Folder::with(&["a.wat"], GROWING);
    for args in [
        "rewrite a.wat -o a.wasm",
        "rewrite a.wat -o b.wasm --json",
        "rewrite a.wat -o -",
        "inspect a.wat",
        "verify a.wat",
        "preflight --pages 1",
        "run --json a.wat",
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let output = folder.command(args).stdout(full.unwrap()).output().unwrap();
        assert_exit(&output, 2);
        assert_stderr_contains(&output, "cannot write <stdout>: No space left on device");
    }
}
