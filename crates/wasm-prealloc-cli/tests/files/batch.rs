//! Folders and many inputs: the modules that are found, their outputs, and the order of the report.

use std::fs;
use std::path::Path;

use crate::harness::{GROWING, assert_exit, assert_pinned, assert_stderr_contains, run};

/// Creates files and their folders.
fn make(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn a_folder_means_the_modules_below_it_and_their_relative_paths_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let binary = wat::parse_str(GROWING).unwrap();
    make(
        folder.path(),
        &[
            ("in/b/deep/two.wasm", &binary),
            ("in/a.wat", GROWING.as_bytes()),
            ("in/b/one.wasm", &binary),
            ("in/README.md", b"not a module"),
            ("alone.wasm", &binary),
        ],
    );
    let output = run(
        folder.path(),
        &["rewrite", "in", "alone.wasm", "--out-dir", "made"],
    );
    assert_exit(&output, 0);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let reported: Vec<&str> = stdout
        .lines()
        .filter(|line| line.contains(" -> made"))
        .filter_map(|line| line.split(" (").next())
        .collect();
    assert_eq!(
        reported,
        [
            "in/a.wat -> made/a.wasm",
            "in/b/deep/two.wasm -> made/b/deep/two.wasm",
            "in/b/one.wasm -> made/b/one.wasm",
            "alone.wasm -> made/alone.wasm",
        ]
    );
    for name in ["a.wasm", "b/deep/two.wasm", "b/one.wasm", "alone.wasm"] {
        assert_pinned(&fs::read(folder.path().join("made").join(name)).unwrap());
    }
    let output = run(folder.path(), &["verify", "made", "--quiet"]);
    assert_exit(&output, 0);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let output = run(folder.path(), &["verify", "in"]);
    assert_exit(&output, 1);
}

#[test]
fn a_folder_without_modules_is_an_error_and_the_other_inputs_are_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        &[("empty/README.md", b""), ("a.wat", GROWING.as_bytes())],
    );
    let output = run(
        folder.path(),
        &["rewrite", "empty", "a.wat", "--out-dir", "made"],
    );
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "empty: this folder has no *.wasm and no *.wat");
    assert_pinned(&fs::read(folder.path().join("made/a.wasm")).unwrap());
}

#[cfg(unix)]
#[test]
fn cycles_of_symbolic_links_end() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &[("in/sub/a.wat", GROWING.as_bytes())]);
    symlink("..", folder.path().join("in/sub/up")).unwrap();
    symlink("sub", folder.path().join("in/again")).unwrap();
    symlink("nowhere", folder.path().join("in/dangling")).unwrap();
    let output = run(folder.path(), &["inspect", "in"]);
    assert_exit(&output, 0);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.matches("a.wat: ").count(), 1, "{stdout}");
}

/// Large modules come first, so that small ones are done before their predecessors.
#[test]
fn a_parallel_batch_reports_in_order_and_continues_after_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let body = "(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(20_000);
    let large = format!("(module (memory 1) (func {body}))");
    let mut names = Vec::new();
    for i in 0..12 {
        let content = match i {
            0 | 1 => large.as_str(),
            5 => "(module (memory 1) (func (result i32) i64.const 0))",
            _ => GROWING,
        };
        make(
            folder.path(),
            &[(&format!("in/{i:02}.wat"), content.as_bytes())],
        );
        names.push(format!("in/{i:02}.wat"));
    }
    for jobs in ["1", "2", "7"] {
        let args = [
            "rewrite",
            "in",
            "--out-dir",
            "made",
            "--json",
            "--jobs",
            jobs,
        ];
        let output = run(folder.path(), &args);
        assert_exit(&output, 2);
        assert_stderr_contains(&output, "error: in/05.wat: invalid module");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let modules = document["modules"].as_array().unwrap();
        let reported: Vec<_> = modules
            .iter()
            .map(|m| m["input"].as_str().unwrap())
            .collect();
        assert_eq!(reported, names);
        let failed: Vec<_> = modules.iter().filter(|m| !m["error"].is_null()).collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(
            fs::read_dir(folder.path().join("made")).unwrap().count(),
            11
        );
    }
    let output = run(
        folder.path(),
        &["rewrite", "in", "--in-place", "--jobs", "0"],
    );
    assert_exit(&output, 2);
}

/// All modules are rewritten although the report cannot be printed.
#[test]
fn a_closed_pipe_does_not_stop_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let binary = wat::parse_str(GROWING).unwrap();
    for i in 0..40 {
        make(folder.path(), &[(&format!("in/{i}.wasm"), &binary)]);
    }
    let mut child = crate::harness::command(folder.path(), &["rewrite", "in", "--in-place"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for entry in fs::read_dir(folder.path().join("in")).unwrap() {
        assert_pinned(&fs::read(entry.unwrap().path()).unwrap());
    }
}

#[test]
fn a_closed_pipe_is_not_an_error_of_any_command() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), &[("a.wat", GROWING.as_bytes())]);
    for args in [
        &["inspect", "a.wat"][..],
        &["inspect", "--json", "a.wat"],
        &["preflight", "--pages", "1"],
        &["preflight", "--pages", "1", "--json"],
    ] {
        let mut child = crate::harness::command(folder.path(), args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_exit(&output, 0);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{args:?}");
    }
}

#[test]
fn no_input_is_replaced_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let binary = wat::parse_str(GROWING).unwrap();
    make(
        folder.path(),
        &[("x/a.wasm", &binary), ("y/x/a.wasm", &binary)],
    );
    // The output of the module in `x` would replace the module in `y`.
    let args = ["rewrite", "y", "./x/../x/a.wasm", "--out-dir", "y/x"];
    let output = run(folder.path(), &args);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "over the input y/x/a.wasm");
    let args = ["rewrite", "x/a.wasm", "./x/a.wasm", "--in-place"];
    let output = run(folder.path(), &args);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "two inputs would both be written to ./x/a.wasm");
    for name in ["x/a.wasm", "y/x/a.wasm"] {
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), binary);
    }
    // An output may replace its own input, by any path.
    let output = run(folder.path(), &["rewrite", "x/a.wasm", "-o", "./x/a.wasm"]);
    assert_exit(&output, 0);
    assert_pinned(&fs::read(folder.path().join("x/a.wasm")).unwrap());
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_kept_and_its_target_is_rewritten() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let binary = wat::parse_str(GROWING).unwrap();
    make(
        folder.path(),
        &[("real.wasm", &binary), ("first.wasm", &binary)],
    );
    symlink("real.wasm", folder.path().join("link.wasm")).unwrap();
    let output = run(folder.path(), &["rewrite", "--in-place", "link.wasm"]);
    assert_exit(&output, 0);
    let link = fs::symlink_metadata(folder.path().join("link.wasm")).unwrap();
    assert!(link.is_symlink());
    assert_pinned(&fs::read(folder.path().join("real.wasm")).unwrap());

    // Of two hard links of one file, the one that is written becomes a separate file.
    let second = folder.path().join("second.wasm");
    fs::hard_link(folder.path().join("first.wasm"), &second).unwrap();
    let output = run(
        folder.path(),
        &["rewrite", "first.wasm", "-o", "second.wasm"],
    );
    assert_exit(&output, 0);
    assert_pinned(&fs::read(&second).unwrap());
    assert_eq!(fs::read(folder.path().join("first.wasm")).unwrap(), binary);
    // Text under two names is not lost.
    make(folder.path(), &[("a.wat", GROWING.as_bytes())]);
    let output = run(folder.path(), &["rewrite", "a.wat", "-o", "./a.wat"]);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "a.wat: it is text");
}

#[test]
fn stdin_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["verify", "-", "-"]);
    assert_exit(&output, 2);
    assert_stderr_contains(&output, "stdin can be read only once");
}
