//! Outputs are whole or missing if the process is killed or the disk is full.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wasm_prealloc_tests::skipped;

use crate::harness::{
    GROWING, assert_exit, assert_pinned, assert_stderr_contains, command, names, run,
};

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
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    fs::create_dir(&inputs).unwrap();
    let module = large();
    fs::write(inputs.join("000.wasm"), &module).unwrap();
    for i in 1..60 {
        let name = inputs.join(format!("{i:03}.wasm"));
        fs::hard_link(inputs.join("000.wasm"), name).unwrap();
    }
    let made = folder.path().join("made");
    let mut child = command(
        folder.path(),
        &["rewrite", "in", "--out-dir", "made", "-j2"],
    )
    .stdout(Stdio::null())
    .spawn()
    .unwrap();
    let begin = Instant::now();
    let finished = |made: &Path| {
        let entries = fs::read_dir(made).into_iter().flatten().flatten();
        entries
            .filter(|e| e.path().extension().is_some_and(|e| e == "wasm"))
            .count()
    };
    while finished(&made) < 3 && begin.elapsed() < Duration::from_secs(60) {
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
    assert_eq!(names(&inputs).len(), 60);
    assert_eq!(fs::read(inputs.join("000.wasm")).unwrap(), module);
    // The temporary files that were left do no harm.
    let args = [
        "rewrite",
        "in/000.wasm",
        "in/059.wasm",
        "--out-dir",
        "made",
        "-q",
    ];
    assert_exit(&run(folder.path(), &args), 0);
    assert_exit(&run(folder.path(), &["verify", "-q", "made"]), 0);
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
    let folder = tempfile::tempdir().unwrap();
    let disk = disk.folder.path().to_str().unwrap().to_owned() + "/";
    fs::write(folder.path().join("large.wasm"), large()).unwrap();
    fs::write(folder.path().join("small.wat"), GROWING).unwrap();
    fs::write(Path::new(&disk).join("large.wasm"), b"as it was").unwrap();
    let args = ["rewrite", "large.wasm", "small.wat", "--out-dir", &disk];
    let output = run(folder.path(), &args);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "large.wasm: No space left on device");
    assert_eq!(names(Path::new(&disk)), ["large.wasm", "small.wasm"]);
    assert_eq!(
        fs::read(Path::new(&disk).join("large.wasm")).unwrap(),
        b"as it was"
    );
    assert_pinned(&fs::read(Path::new(&disk).join("small.wasm")).unwrap());
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    if !Path::new("/dev/full").exists() {
        return skipped("a_report_that_cannot_be_written_is_an_error: no /dev/full");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.wat"), GROWING).unwrap();
    for args in [
        &["rewrite", "a.wat", "-o", "a.wasm"][..],
        &["rewrite", "a.wat", "-o", "b.wasm", "--json"],
        &["rewrite", "a.wat", "-o", "-"],
        &["inspect", "a.wat"],
    ] {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = command(folder.path(), args).stdout(full).output().unwrap();
        assert_exit(&output, 2);
        assert_stderr_contains(&output, "No space left on device");
    }
}
