//! Reports of tests that did not run.

/// Prints that a test did not run, and the reason. Test harnesses hide what a passing test prints
/// with `println!`, so this writes to stderr directly.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    // Without a stderr there is no other place to report to.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
