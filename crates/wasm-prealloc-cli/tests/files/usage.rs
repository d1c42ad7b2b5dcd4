//! Errors of the command line: exit status 2, and with `--json` one document.

use serde_json::{Value, json};

use crate::harness::{Folder, GROWING};

/// Command lines that no command accepts, the command in the document, and words of the message.
const WRONG: &[(&str, Option<&str>, &str)] = &[
    (
        "verify --json --bogus a.wat",
        Some("verify"),
        "unexpected argument '--bogus'",
    ),
    (
        "--json verify --bogus a.wat",
        Some("verify"),
        "unexpected argument '--bogus'",
    ),
    (
        "verify --bogus a.wat --json",
        Some("verify"),
        "unexpected argument '--bogus'",
    ),
    ("inspect --json", Some("inspect"), "<INPUT>..."),
    (
        "inspect a.wat --json --jobs",
        Some("inspect"),
        "a value is required for '--jobs <N>'",
    ),
    (
        "inspect a.wat --json --jobs 0",
        Some("inspect"),
        "invalid value '0' for '--jobs <N>'",
    ),
    (
        "rewrite a.wat --json",
        Some("rewrite"),
        "<--output <FILE>|--out-dir <DIR>|--in-place>",
    ),
    (
        "rewrite a.wat -o b --in-place --json",
        Some("rewrite"),
        "cannot be used with",
    ),
    (
        "rewrite a.wat -o b --growth much --json",
        Some("rewrite"),
        "possible values",
    ),
    (
        "rewrite a.wat a.wat -o b --json",
        Some("rewrite"),
        "`-o` takes one input",
    ),
    (
        "rewrite a.wat -o - --json",
        Some("rewrite"),
        "`--json` prints to stdout",
    ),
    (
        "rewrite - --out-dir made --json",
        Some("rewrite"),
        "stdin has no name for `--out-dir`",
    ),
    (
        "verify - - --json",
        Some("verify"),
        "stdin can be read only once",
    ),
    (
        "preflight --json --instances 0",
        Some("preflight"),
        "invalid value '0'",
    ),
    ("run --json", Some("run"), "<MODULE>"),
    ("--json", None, "requires a subcommand"),
    (
        "--json verfy a.wat",
        None,
        "unrecognized subcommand 'verfy'",
    ),
];

#[test]
fn one_document_reports_an_error_of_the_command_line() {
    let folder = Folder::with(&["a.wat"], GROWING);
    for (args, command, words) in WRONG {
        let output = folder.fails(args, "error: ");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let message = document["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(words) && !message.contains("Usage:"),
            "{args}: {message}"
        );
        assert!(
            !message.contains('\n') && !message.starts_with("error"),
            "{args}: {message}"
        );
        let error = json!({"kind": "usage", "offset": null, "message": message});
        let expected = json!({"schema": 1, "command": command, "exit": 2, "error": error});
        assert_eq!(document, expected, "{args}");

        let text = args.replace("--json", "");
        if !text.contains("-o -") {
            let output = folder.command(&text).output().unwrap();
            assert_eq!(
                (output.status.code(), output.stdout.as_slice()),
                (Some(2), &b""[..]),
                "{text}"
            );
        }
    }
    assert_eq!(folder.names(), ["a.wat"]);
}

#[test]
fn an_output_folder_that_cannot_be_created_is_an_io_error() {
    let folder = Folder::with(&["a.wat", "file"], GROWING);
    let output = folder.fails("rewrite a.wat --out-dir file --json", "cannot create file");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["kind"], "io");
}

#[test]
fn help_and_version_are_text_also_with_json() {
    for args in [
        "--help --json",
        "--json --version",
        "verify --json --help",
        "--json help",
    ] {
        let output = Folder::new().run(args);
        assert!(
            output.stdout.first().is_some_and(|byte| *byte != b'{'),
            "{args}"
        );
    }
}

/// An argument of the module is not one of the command.
#[test]
fn arguments_after_the_module_are_passed_to_it() {
    let folder = Folder::with(&["a.wat"], "(module (func (export \"_start\")))");
    let output = folder.run("run a.wat -- --json");
    assert!(output.stdout.is_empty());
    let output = folder.fails(
        "run --bogus a.wat -- --json",
        "unexpected argument '--bogus'",
    );
    assert!(output.stdout.is_empty());
}
