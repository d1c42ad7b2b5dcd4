//! A target whose standard library is missing: its installation, and the errors. The compiler and
//! rustup are shell scripts, so that nothing is installed.

use std::error::Error as _;
use std::path::PathBuf;

use crate::fixture::{Fixture, IDLE, fails_with};
use wasm_prealloc_build::{BuildOptions, Error, build};

/// Returns options with a compiler whose library folder is empty.
fn without_target(fixture: &Fixture) -> BuildOptions {
    fixture.write("libdir/README", "no library here");
    fixture.write("bin/README", "no rustup here");
    let libdir = fixture.path("libdir");
    let real = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let real = which(&real);
    let rustc = fixture.script(
        "fake-rustc",
        &format!(
            "if [ \"$1\" = --print ]; then echo '{}'; else exec '{}' \"$@\"; fi\n",
            libdir.display(),
            real.display()
        ),
    );
    let mut options = fixture.options_with("RUSTC", rustc);
    let path = fixture.path("bin").into_os_string();
    options.env.insert("PATH".into(), Some(path));
    options
}

/// Returns the path of a program. The scripts need it because they run with another PATH.
fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap()
}

#[test]
fn without_rustup_the_error_names_the_packages_to_install() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let text = fails_with(
        &without_target(&fixture),
        |error| matches!(error, Error::TargetMissing { libdir, .. } if *libdir == fixture.path("libdir")),
    );
    for advice in [
        "libstd-rust-dev-wasm32",
        "rust-std-wasm32-unknown-unknown",
        "https://rustup.rs",
        "rustup target add wasm32-unknown-unknown",
    ] {
        assert!(text.contains(advice), "{text}");
    }
    assert!(!fixture.out_dir().exists());
}

#[test]
fn rustup_adds_the_target_to_the_toolchain_of_the_guests_folder() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let mut options = without_target(&fixture);
    let log = fixture.path("log");
    fixture.script(
        "bin/rustup",
        &format!(
            "echo \"$PWD: $@\" >> '{}'\n: > '{}/libstd-0.rlib'\n",
            log.display(),
            fixture.path("libdir").display()
        ),
    );
    // The real compiler may be a proxy of rustup, and starts a linker from PATH.
    let path = std::env::var("PATH").unwrap();
    let bin = fixture.path("bin");
    let path = format!("{}:{path}", bin.display());
    options.env.insert("PATH".into(), Some(path.into()));
    build(&options).unwrap();
    build(&options).unwrap();

    let folder = fixture.path("").canonicalize().unwrap();
    let expected = format!("{}: target add wasm32-unknown-unknown\n", folder.display());
    assert_eq!(std::fs::read_to_string(log).unwrap(), expected);
}

#[test]
fn a_rustup_that_fails_is_an_error() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let options = without_target(&fixture);
    fixture.script("bin/rustup", "exit 3\n");
    fails_with(
        &options,
        |error| matches!(error, Error::TargetAdd { status, .. } if status.code() == Some(3)),
    );
}

#[test]
fn a_target_for_another_compiler_is_an_error() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let options = without_target(&fixture);
    fixture.script("bin/rustup", "exit 0\n");
    let text = fails_with(&options, |error| {
        matches!(error, Error::TargetElsewhere { .. })
    });
    assert!(text.contains("RUSTC"), "{text}");
}

#[test]
fn a_missing_compiler_or_cargo_is_named_with_its_variable() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    for variable in ["RUSTC", "CARGO"] {
        let program = format!("/no/such/{variable}");
        let text = fails_with(&fixture.options_with(variable, &program), |error| {
            matches!(error, Error::Start { .. }) && error.source().is_some()
        });
        assert!(
            text.contains(&format!("cannot start `{program}`")),
            "{text}"
        );
    }
}

#[test]
fn the_message_of_a_failing_compiler_is_quoted() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let rustc = fixture.script("fake-rustc", "echo 'no such target' >&2; exit 1\n");
    let text = fails_with(&fixture.options_with("RUSTC", rustc), |error| {
        matches!(error, Error::Compiler { .. })
    });
    assert!(text.contains("no such target"), "{text}");
}
