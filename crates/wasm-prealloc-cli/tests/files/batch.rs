//! Folders and many inputs: the modules that are found, their outputs, and the order of the report.

use std::fs;

use crate::harness::{Folder, GROWING, assert_exit, assert_stderr_contains, growing, names};

#[test]
fn a_folder_means_the_modules_below_it_and_their_relative_paths_are_kept() {
    let binaries = ["in/b/deep/two.wasm", "in/b/one.wasm", "alone.wasm"];
    let folder = Folder::with(&binaries, growing());
    folder.write("in/a.wat", GROWING);
    folder.write("in/README.md", "not a module");
    let output = folder.run("rewrite in alone.wasm --out-dir made");
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
    folder.assert_pinned(&[
        "made/a.wasm",
        "made/b/deep/two.wasm",
        "made/b/one.wasm",
        "made/alone.wasm",
    ]);
    let output = folder.run("verify made --quiet");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    assert_exit(&folder.command("verify in").output().unwrap(), 1);
}

#[test]
fn a_folder_without_modules_is_an_error_and_the_other_inputs_are_rewritten() {
    let folder = Folder::with(&["a.wat"], GROWING);
    folder.write("empty/README.md", "");
    folder.fails(
        "rewrite empty a.wat --out-dir made",
        "empty: neither this folder nor any folder below it has a *.wasm or *.wat file",
    );
    folder.assert_pinned(&["made/a.wasm"]);
}

#[cfg(unix)]
#[test]
fn cycles_of_symbolic_links_end() {
    use std::os::unix::fs::symlink;

    let folder = Folder::with(&["in/sub/a.wat"], GROWING);
    symlink("..", folder.path("in/sub/up")).unwrap();
    symlink("sub", folder.path("in/again")).unwrap();
    symlink("nowhere", folder.path("in/dangling")).unwrap();
    let stdout = String::from_utf8(folder.run("inspect in").stdout).unwrap();
    assert_eq!(stdout.matches("a.wat: ").count(), 1, "{stdout}");
}

/// Large modules come first, so that small ones are done before their predecessors.
#[test]
fn a_parallel_batch_reports_in_order_and_continues_after_a_failure() {
    let folder = Folder::new();
    let body = "(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(20_000);
    let large = format!("(module (memory 1) (func {body}))");
    let mut names = Vec::new();
    for i in 0..12 {
        let content = match i {
            0 | 1 => large.as_str(),
            5 => "(module (memory 1) (func (result i32) i64.const 0))",
            _ => GROWING,
        };
        names.push(format!("in/{i:02}.wat"));
        folder.write(&names[i], content);
    }
    for jobs in [1, 2, 7] {
        let output = folder.fails(
            &format!("rewrite in --out-dir made --json --jobs {jobs}"),
            "error: in/05.wat: invalid module",
        );
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let modules = document["modules"].as_array().unwrap();
        let reported: Vec<_> = modules
            .iter()
            .map(|m| m["input"].as_str().unwrap())
            .collect();
        assert_eq!(reported, names);
        let failed = modules.iter().filter(|m| !m["error"].is_null());
        assert_eq!(failed.count(), 1);
        assert_eq!(fs::read_dir(folder.path("made")).unwrap().count(), 11);
    }
    folder.fails("rewrite in --in-place --jobs 0", "--jobs");
}

/// All modules are rewritten although the report cannot be printed.
#[test]
fn a_closed_pipe_does_not_stop_a_batch() {
    let names: Vec<_> = (0..40).map(|i| format!("in/{i}.wasm")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let folder = Folder::with(&names, growing());
    folder.run_with_closed_pipe("rewrite in --in-place");
    folder.assert_pinned(&names);
}

#[test]
fn a_closed_pipe_is_not_an_error_of_any_command() {
    let folder = Folder::with(&["a.wat"], GROWING);
    folder.write(
        "answer.wat",
        "(module (func (export \"answer\") (result i32) (i32.const 42)))",
    );
    for args in [
        "inspect a.wat",
        "inspect --json a.wat",
        "preflight --pages 1",
        "preflight --pages 1 --json",
        "run --invoke answer answer.wat",
        "run --json --invoke answer answer.wat",
    ] {
        let output = folder.run_with_closed_pipe(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{args}");
    }
}

/// Only the inputs that share an output are refused.
#[test]
fn two_inputs_never_share_an_output() {
    let folder = Folder::with(&["in/b.wasm", "in/a.wasm"], growing());
    folder.write("in/a.wat", GROWING);
    folder.write("a.wat", GROWING);
    for (args, refused) in [
        (
            "in",
            ["in/a.wasm: it and in/a.wat", "in/a.wat: it and in/a.wasm"],
        ),
        (
            "in/a.wat in/b.wasm a.wat",
            ["in/a.wat: it and a.wat", "a.wat: it and in/a.wat"],
        ),
    ] {
        let output = folder.fails(
            &format!("rewrite {args} --out-dir made"),
            &format!("error: {} would both be written to made/a.wasm", refused[0]),
        );
        assert_stderr_contains(&output, &format!("error: {} would both", refused[1]));
        assert_eq!(names(&folder.path("made")), ["b.wasm"]);
        folder.assert_pinned(&["made/b.wasm"]);
        fs::remove_dir_all(folder.path("made")).unwrap();
    }
    // The advice is followed.
    folder.run("rewrite in/a.wat -o one.wasm");
    folder.assert_pinned(&["one.wasm"]);
    folder.fails("rewrite a.wat in/a.wat -o c.wasm", "`-o` takes one input");
}

#[test]
fn no_input_is_replaced_before_it_is_read() {
    let inputs = ["x/a.wasm", "y/x/a.wasm", "y/b.wasm"];
    let folder = Folder::with(&inputs, growing());
    // The output of the module in `x` would replace the module in `y`. The others are rewritten.
    folder.fails(
        "rewrite y ./x/../x/a.wasm --out-dir y/x",
        "error: ./x/../x/a.wasm: it would be written to y/x/a.wasm, over the input y/x/a.wasm",
    );
    folder.assert_pinned(&["y/x/b.wasm", "y/x/x/a.wasm"]);
    folder.fails(
        "rewrite x/a.wasm ./x/a.wasm y/b.wasm --in-place",
        "./x/a.wasm: it is given twice, and would be written to ./x/a.wasm twice",
    );
    folder.assert_pinned(&["y/b.wasm"]);
    for name in ["x/a.wasm", "y/x/a.wasm"] {
        assert_eq!(folder.read(name), growing());
    }
    // An output may replace its own input, by any path.
    folder.run("rewrite x/a.wasm -o ./x/a.wasm");
    folder.assert_pinned(&["x/a.wasm"]);
}

/// Two names of one file are two inputs, and each has its own output.
#[test]
fn hard_links_are_separate_inputs() {
    let folder = Folder::with(&["a.wasm"], growing());
    fs::hard_link(folder.path("a.wasm"), folder.path("b.wasm")).unwrap();
    folder.run("rewrite a.wasm b.wasm --out-dir made");
    folder.assert_pinned(&["made/a.wasm", "made/b.wasm"]);
    assert_eq!(folder.read("a.wasm"), growing());
    folder.run("rewrite a.wasm b.wasm --in-place");
    folder.assert_pinned(&["a.wasm", "b.wasm"]);
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_kept_and_its_target_is_rewritten() {
    use std::os::unix::fs::symlink;

    let folder = Folder::with(&["real.wasm", "first.wasm"], growing());
    symlink("real.wasm", folder.path("link.wasm")).unwrap();
    folder.run("rewrite --in-place link.wasm");
    assert!(folder.path("link.wasm").is_symlink());
    folder.assert_pinned(&["real.wasm"]);

    // Of two hard links of one file, the one that is written becomes a separate file.
    fs::hard_link(folder.path("first.wasm"), folder.path("second.wasm")).unwrap();
    folder.run("rewrite first.wasm -o second.wasm");
    folder.assert_pinned(&["second.wasm"]);
    assert_eq!(folder.read("first.wasm"), growing());
    // Text under two names is not lost.
    folder.write("a.wat", GROWING);
    folder.fails("rewrite a.wat -o ./a.wat", "a.wat: it is text");
}

#[test]
fn stdin_is_read_once() {
    Folder::new().fails("verify - -", "stdin can be read only once");
}
