//! Checks of the exit status and the output of a process.

use std::process::Output;

/// Checks the exit status. Returns the text on stderr.
#[track_caller]
pub(crate) fn expect_status(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = output.status;
    assert_eq!(found.code(), Some(status), "{found:?}: {stderr}");
    stderr
}

/// Checks that a text contains each of these parts.
#[track_caller]
pub(crate) fn expect_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}
