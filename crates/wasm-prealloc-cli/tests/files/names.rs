//! Names of files: bytes that are not UTF-8, and paths that are too long.

use std::process::Output;

use serde_json::Value;

use crate::harness::{Folder, GROWING, assert_exit, assert_stderr_contains, growing};

#[cfg(target_os = "linux")]
mod not_utf_8 {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn run(folder: &Folder, args: &[&[u8]]) -> Output {
        let mut command = folder.command("");
        command.args(args.iter().map(|arg| OsStr::from_bytes(arg)));
        command.output().unwrap()
    }

    fn json(folder: &Folder, args: &[&[u8]]) -> Value {
        let output = run(folder, args);
        assert_exit(&output, 0);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The text of a name has replacements, and the bytes beside it are exact.
    #[test]
    fn files_and_folders_are_read_written_and_reported() {
        let folder = Folder::new();
        let place = folder.path("").join(OsStr::from_bytes(b"in\xff"));
        std::fs::create_dir(&place).unwrap();
        for name in [b"a\xfe.wat", b"a\xfd.wat"] {
            std::fs::write(place.join(OsStr::from_bytes(name)), GROWING).unwrap();
        }
        let args: &[&[u8]] = &[b"rewrite", b"--json", b"in\xff", b"--out-dir", b"made\xfc"];
        let document = json(&folder, args);
        let modules = document["modules"].as_array().unwrap();
        assert_eq!(modules.len(), 2);
        for (module, bytes) in modules.iter().zip([["fd", "fe"], ["fe", "fd"]]) {
            assert_eq!(module["input"], "in\u{fffd}/a\u{fffd}.wat");
            assert_eq!(
                module["input_bytes"],
                format!("696eff2f61{}2e776174", bytes[0])
            );
            assert_eq!(module["output"], "made\u{fffd}/a\u{fffd}.wasm");
            let output = format!("6d616465fc2f61{}2e7761736d", bytes[0]);
            assert_eq!(module["output_bytes"], output);
        }
        let written = folder
            .path("")
            .join(OsStr::from_bytes(b"made\xfc/a\xfe.wasm"));
        wasm_prealloc::verify(&std::fs::read(written).unwrap(), 65_536).unwrap();
        json(&folder, &[b"verify", b"--json", b"made\xfc"]);
    }

    #[test]
    fn a_missing_file_and_a_module_that_runs_are_reported() {
        let folder = Folder::new();
        let output = run(&folder, &[b"inspect", b"--json", b"no\xff.wasm"]);
        assert_exit(&output, 2);
        assert_stderr_contains(&output, "no\u{fffd}.wasm: No such file or directory");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["modules"][0]["input_bytes"], "6e6fff2e7761736d");

        let path = folder.path("").join(OsStr::from_bytes(b"r\xff.wat"));
        std::fs::write(path, "(module (func (export \"_start\")))").unwrap();
        let document = json(&folder, &[b"run", b"--json", b"r\xff.wat"]);
        assert_eq!(document["module"], "r\u{fffd}.wat");
        assert_eq!(document["module_bytes"], "72ff2e776174");
    }

    #[test]
    fn a_name_in_the_module_must_be_utf_8() {
        let folder = Folder::with(&["a.wasm"], growing());
        let args: &[&[u8]] = &[
            b"rewrite",
            b"a.wasm",
            b"-o",
            b"b",
            b"--json",
            b"--export-commit",
            b"\xff",
        ];
        let output = run(&folder, args);
        assert_exit(&output, 2);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"]["kind"], "usage");
    }
}

/// Linux accepts paths of at most 4,095 bytes.
#[cfg(unix)]
#[test]
fn a_path_of_60_000_parts_is_an_error() {
    let folder = Folder::with(&["a.wat"], GROWING);
    let long = "a/".repeat(60_000);
    for args in [
        format!("verify {long}"),
        format!("rewrite {long}b.wasm -o c.wasm"),
        format!("rewrite {long}b.wasm --in-place"),
        format!("rewrite {long}b.wasm --out-dir made"),
        format!("rewrite a.wat -o {long}b.wasm"),
        format!("rewrite a.wat --out-dir {long}"),
        format!("rewrite a.wat --json -o {long}b.wasm"),
        format!("run {long}b.wasm"),
    ] {
        let output = folder.fails(&args, "...: File name too long");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.len() < 200, "{stderr}");
    }
}

/// A folder whose path is too long is reported, and the modules above it are verified.
#[cfg(target_os = "linux")]
#[test]
fn deep_folders_are_walked_as_far_as_paths_reach() {
    let folder = Folder::with(&["in/a.wat"], GROWING);
    let script =
        "import os\nos.chdir('in')\nfor i in range(2100):\n os.mkdir('d')\n os.chdir('d')\n";
    let made = std::process::Command::new("python3")
        .args(["-c", script])
        .current_dir(folder.path(""))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: python3 did not create the folders");
        return;
    }
    let output = folder.fails("inspect in", "...: File name too long");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("in/a.wat: "), "{stdout}");
    // The folder is deeper than the recursion of a deletion by path.
    let removed = std::process::Command::new("rm")
        .arg("-rf")
        .arg(folder.path("in"))
        .status();
    assert!(removed.unwrap().success());
}
