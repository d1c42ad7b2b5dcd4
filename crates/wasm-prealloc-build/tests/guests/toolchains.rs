//! Builds with several toolchains of rustup, and the choice of the toolchain.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use wasm_prealloc::{GrowthHandling, MAX_PAGES};
use wasm_prealloc_build::{BuildOptions, WASM_TARGET, build};
use wasm_prealloc_tests::skipped;
use wasmtime::{Engine, Instance, Module, Store};

use crate::fixture::{Fixture, IDLE};

/// Allocates and writes blocks of 1 MiB, keeps them, and returns the sum of their first bytes.
const SUMMING: &str = "\
#[unsafe(no_mangle)] pub extern \"C\" fn sum(blocks: u32) -> u32 {
    let kept: Vec<Vec<u8>> = (0..blocks).map(|i| vec![i as u8 + 1; 1 << 20]).collect();
    std::hint::black_box(&kept).iter().map(|block| u32::from(block[0])).sum()
}
#[unsafe(no_mangle)] pub extern \"C\" fn pages() -> usize { core::arch::wasm32::memory_size(0) }
";

/// Installs a toolchain for guests if it is missing, or returns the reason why that failed.
fn install(toolchain: &str) -> Result<(), String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock();
    let rustup = |args: &[&str]| {
        let output = Command::new("rustup").args(args).output();
        let output = output.map_err(|error| format!("cannot start rustup: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    };
    if rustup(&["run", toolchain, "rustc", "--version"]).is_err() {
        let minimal = ["--profile", "minimal", "--no-self-update"];
        rustup(&[&["toolchain", "install", toolchain], &minimal[..]].concat())?;
    }
    rustup(&["target", "add", "--toolchain", toolchain, WASM_TARGET])
}

/// Returns options with which the build finds cargo on PATH.
fn options(fixture: &Fixture, env: &[(&str, Option<&str>)]) -> BuildOptions {
    let mut options = fixture.options();
    options.env.remove(OsStr::new("CARGO"));
    for (name, value) in env {
        options.env.insert(name.into(), value.map(OsString::from));
    }
    options
}

/// Returns the version that a toolchain's compiler prints.
fn version(toolchain: &str) -> String {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--version"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn allocations_succeed(path: &Path, from_pages: u64) {
    let engine = Engine::default();
    let module = Module::from_file(&engine, path).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let pages = instance.get_typed_func::<(), u32>(&mut store, "pages");
    let pages = pages.unwrap();
    assert_eq!(u64::from(pages.call(&mut store, ()).unwrap()), from_pages);
    let sum = instance.get_typed_func::<u32, u32>(&mut store, "sum");
    let sum = sum.unwrap().call(&mut store, 40).unwrap();
    assert_eq!(sum, (1..=40).sum::<u32>());
    let grown = pages.call(&mut store, ()).unwrap();
    assert!(u64::from(grown) >= from_pages + 40 * 16, "{grown}");
}

#[test]
fn every_toolchain_from_1_95_on_builds_guests_that_allocate() {
    for toolchain in ["1.95.0", "1.97.0", "nightly"] {
        if let Err(why) = install(toolchain) {
            skipped(&format!("no build with Rust {toolchain}: {why}"));
            continue;
        }
        let fixture = Fixture::of_guests(&[("summing", SUMMING)]);
        let options = options(&fixture, &[("RUSTUP_TOOLCHAIN", Some(toolchain))]);
        let build = build(&options).unwrap();
        let guest = &build.guests[0];
        assert_eq!(guest.toolchain.rustc, version(toolchain));
        let path = build.path("summing").unwrap();
        let module = std::fs::read(&path).unwrap();
        wasm_prealloc::verify(&module, MAX_PAGES).unwrap();
        let GrowthHandling::Emulated { from_pages, .. } = guest.report.memories[0].growth else {
            panic!("{toolchain}: {:?}", guest.report.memories);
        };
        allocations_succeed(&path, from_pages);
    }
}

/// `cargo test` runs under rustup's proxy, as `cargo xtask` does, so `RUSTUP_TOOLCHAIN` is set.
#[test]
fn a_toolchain_file_of_the_guests_is_honoured_unless_the_user_has_chosen() {
    let (Ok(exported), Ok(_)) = (
        std::env::var("RUSTUP_TOOLCHAIN"),
        std::env::var("RUST_RECURSION_COUNT"),
    ) else {
        return skipped("no choice of a toolchain: the tests do not run under rustup");
    };
    let of_file = ["1.95.0", "1.97.0"].map(|toolchain| install(toolchain).map(|()| toolchain));
    let mut of_file = of_file.into_iter().flatten();
    let Some(of_file) = of_file.rfind(|toolchain| version(toolchain) != version(&exported)) else {
        return skipped("no choice of a toolchain: there is only one");
    };
    let fixture = Fixture::of_guests(&[("idle", IDLE)]);
    fixture.write(
        "rust-toolchain.toml",
        &format!("[toolchain]\nchannel = \"{of_file}\"\n"),
    );
    let default = Command::new("rustc")
        .arg("--version")
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .unwrap();
    let default = String::from_utf8(default.stdout).unwrap();
    let before_1_29 = match default.trim() == version(&exported) {
        true => of_file,
        false => &exported,
    };
    for (source, expected) in [
        (Some("default"), of_file),
        (Some("path-override"), of_file),
        (Some("toolchain-file"), of_file),
        (Some("cli"), &exported),
        (Some("env"), &exported),
        (None, before_1_29),
    ] {
        let options = options(&fixture, &[("RUSTUP_TOOLCHAIN_SOURCE", source)]);
        let build = build(&options).unwrap();
        let found = &build.guests[0].toolchain.rustc;
        assert_eq!(*found, version(expected), "{source:?}");
    }
    // The choice of the caller takes precedence.
    let options = options(&fixture, &[("RUSTUP_TOOLCHAIN", Some(&exported))]);
    let build = build(&options).unwrap();
    assert_eq!(build.guests[0].toolchain.rustc, version(&exported));
}
