//! The modules and the manifest of a build, and the files that it must not change.

use crate::fixture::{ALLOCATING, CDYLIB, Fixture, IDLE, NEEDS_MARKER, fails_with};
use sha2::{Digest as _, Sha256};
use wasm_prealloc::{GrowthHandling, MAX_PAGES, Report};
use wasm_prealloc_build::manifest::{BuiltGuest, Manifest, SCHEMA};
use wasm_prealloc_build::{Error, Linking, build};

/// A cargo configuration with a minimum of 1,024 pages.
const LINK_64_MIB: &str = "\
[target.wasm32-unknown-unknown]
rustflags = [\"-Clink-arg=--initial-memory=67108864\"]
";

/// A cargo configuration that pins the memory, for toolchains that export `__heap_base` or not.
const LINK_4_GIB: &str = "\
[target.wasm32-unknown-unknown]
rustflags = [\"-Clink-arg=--initial-memory=4294967296\", \"-Clink-arg=--export=__heap_base\"]
";

#[track_caller]
fn built(fixture: &Fixture) -> BuiltGuest {
    build(&fixture.options()).unwrap().guests.remove(0)
}

#[track_caller]
fn assert_pinned(fixture: &Fixture, file: &str) {
    wasm_prealloc::verify(&fixture.outputs()[file], MAX_PAGES).unwrap();
}

fn names(manifest: &Manifest) -> Vec<&str> {
    manifest.guests.iter().map(|guest| &*guest.name).collect()
}

/// Returns the first and the last size of emulated growth, in pages.
#[track_caller]
fn emulated(guest: &BuiltGuest) -> (u64, u64) {
    match guest.report.memories[0].growth {
        GrowthHandling::Emulated {
            from_pages,
            cap_pages,
            ..
        } => (from_pages, cap_pages),
        ref other => panic!("{other:?}"),
    }
}

/// Returns the size that a guest reads, in pages.
#[track_caller]
fn pregrown(guest: &BuiltGuest) -> u64 {
    match guest.report.memories[0].growth {
        GrowthHandling::Pregrown { pages, .. } => pages,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_is_a_cdylib_or_else_a_binary() {
    let fixture = Fixture::of_guests(&[("plugin", IDLE)]);
    fixture.package("tool", "");
    fixture.write("guests/tool/src/main.rs", "fn main() {}");
    fixture.package("both", "[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n");
    fixture.source("both", IDLE);
    fixture.write("guests/both/src/main.rs", "compile_error!(\"for hosts\");");
    fixture.package("library", "");
    fixture.source("library", "compile_error!(\"for hosts\");");

    let build = build(&fixture.options()).unwrap();

    let built: Vec<_> = build.guests.iter().map(|guest| &*guest.file).collect();
    assert_eq!(built, ["both.wasm", "plugin.wasm", "tool.wasm"]);
    let manifest = Manifest::read(&fixture.out_dir()).unwrap();
    assert_eq!(manifest.guests, build.guests);
    for guest in &build.guests {
        let module = std::fs::read(build.path(&guest.name).unwrap()).unwrap();
        let memories = wasm_prealloc::verify(&module, MAX_PAGES).unwrap();
        assert_eq!(memories.len(), 1, "{}", guest.name);
        assert_eq!(guest.report.bytes_after, module.len());
        let digest: Vec<_> = Sha256::digest(&module).to_vec();
        let hexadecimal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(guest.sha256, hexadecimal);
        assert_eq!(guest.report.memories[0].after.minimum, MAX_PAGES);
        assert_eq!(guest.report.memories[0].after.maximum, Some(MAX_PAGES));
        assert!(guest.toolchain.rustc.starts_with("rustc "));
        assert_eq!(guest.toolchain.target, "wasm32-unknown-unknown");
    }
}

#[test]
fn a_guest_that_allocates_has_emulated_growth() {
    let fixture = Fixture::of_guests(&[("allocating", ALLOCATING)]);
    let pinned = built(&fixture);
    let [memory] = &*pinned.report.memories else {
        panic!("{:?}", pinned.report.memories);
    };
    assert!(memory.sites.grow > 0);
    let (from_pages, cap_pages) = emulated(&pinned);
    assert_eq!(cap_pages, MAX_PAGES);
    let linked = fixture.path("target/wasm32-unknown-unknown/release/allocating.wasm");
    let linked = std::fs::read(linked).unwrap();
    assert_eq!(memory.before.minimum, from_pages);
    assert_eq!(memory.before.maximum, Some(MAX_PAGES));
    assert_eq!(pinned.report.bytes_before, linked.len());
    let link_args = ["--initial-memory=4294967296", "--max-memory=4294967296"];
    assert_eq!(pinned.link_args, link_args);

    // A pinned module starts to grow at the size that the linker chooses.
    let mut options = fixture.options();
    options.linking = Linking::Natural;
    let natural = build(&options).unwrap().guests.remove(0);
    assert_eq!(natural.linking, Linking::Natural);
    assert_eq!(natural.link_args, [""; 0]);
    assert_eq!(natural.report.bytes_before, natural.report.bytes_after);
    assert_eq!(natural.report.memories[0].after.maximum, None);
    assert_eq!(natural.report.memories[0].after.minimum, from_pages);
    assert_eq!(natural.report.memories[0].growth, GrowthHandling::Kept);
    assert_eq!(natural.report.memories[0].sites.grow, memory.sites.grow);
    let module = &fixture.outputs()["allocating.wasm"];
    assert!(wasm_prealloc::verify(module, MAX_PAGES).is_err());
}

#[test]
fn a_guest_that_only_measures_its_memory_reads_it_as_grown() {
    let source = "\
#[unsafe(no_mangle)] pub extern \"C\" fn _start() -> usize { core::arch::wasm32::memory_size(0) }
";
    let fixture = Fixture::of_guests(&[("measuring", source)]);
    // If the linker does not pin the memory, an embedder could have grown it.
    for (flags, warnings) in [("", 1), (LINK_64_MIB, 1), (LINK_4_GIB, 0)] {
        fixture.write(".cargo/config.toml", flags);
        let guest = built(&fixture);
        let Report {
            memories,
            warnings: found,
            ..
        } = &guest.report;
        assert_eq!((memories[0].sites.size, memories[0].sites.grow), (1, 0));
        assert_eq!(pregrown(&guest), MAX_PAGES - 1, "{flags}");
        assert_eq!(found.len(), warnings, "{flags}: {found:?}");
        let manifest = Manifest::read(&fixture.out_dir()).unwrap();
        assert_eq!(manifest.guests, [guest]);
    }
}

#[test]
fn the_same_sources_make_the_same_bytes() {
    let fixture = Fixture::of_guests(&[("one", ALLOCATING), ("two", IDLE)]);
    build(&fixture.options()).unwrap();
    let first = fixture.outputs();
    std::fs::remove_dir_all(fixture.path("target")).unwrap();
    std::fs::remove_dir_all(fixture.out_dir()).unwrap();
    build(&fixture.options()).unwrap();
    assert_eq!(fixture.outputs(), first);
}

#[test]
fn rustflags_reach_the_guest() {
    let fixture = Fixture::of_guests(&[("marked", NEEDS_MARKER)]);
    fails_with(&fixture.options(), |error| {
        matches!(error, Error::Cargo { .. })
    });
    build(&fixture.options_with("RUSTFLAGS", "--cfg marker")).unwrap();
}

#[test]
fn the_cargo_configuration_of_the_workspace_applies() {
    let fixture = Fixture::of_guests(&[("marked", NEEDS_MARKER)]);
    fixture.write(
        ".cargo/config.toml",
        "[target.wasm32-unknown-unknown]\nrustflags = [\"--cfg\", \"marker\"]\n",
    );
    build(&fixture.options()).unwrap();
    assert_pinned(&fixture, "marked.wasm");
}

#[test]
fn a_build_script_does_not_get_the_link_args() {
    let fixture = Fixture::of_guests(&[("marked", NEEDS_MARKER)]);
    // The host's linker does not accept the guest's link arguments.
    fixture.write(
        "guests/marked/build.rs",
        "fn main() { println!(\"cargo::rustc-cfg=marker\"); }",
    );
    build(&fixture.options()).unwrap();
}

#[test]
fn growth_starts_at_a_minimum_that_the_workspace_sets() {
    let fixture = Fixture::of_guests(&[("allocating", ALLOCATING)]);
    fixture.write(".cargo/config.toml", LINK_64_MIB);
    assert_eq!(emulated(&built(&fixture)), (1024, MAX_PAGES));
    assert_pinned(&fixture, "allocating.wasm");
}

#[test]
fn a_maximum_of_the_workspace_is_the_cap_of_growth() {
    let fixture = Fixture::of_guests(&[("allocating", ALLOCATING)]);
    fixture.write(
        ".cargo/config.toml",
        "[target.wasm32-unknown-unknown]\nrustflags = [\"-Clink-arg=--max-memory=67108864\"]\n",
    );
    assert_eq!(emulated(&built(&fixture)).1, 1024);
}

#[test]
fn a_memory_that_the_workspace_pins_grows_from_its_heap_base() {
    let fixture = Fixture::of_guests(&[("allocating", ALLOCATING)]);
    let natural = built(&fixture);
    fixture.write(".cargo/config.toml", LINK_4_GIB);
    let pinned = built(&fixture);
    assert_eq!(emulated(&pinned), emulated(&natural));
    assert_pinned(&fixture, "allocating.wasm");
}

#[test]
fn link_args_that_prevent_pinning_are_named_with_a_remedy() {
    let fixture = Fixture::of_guests(&[("allocating", ALLOCATING)]);
    // A name section or an export would give the start of the heap.
    let pinned = "-Clink-arg=--initial-memory=4294967296 -Clink-arg=--strip-all \
                  -Clink-arg=--no-export-dynamic";
    let imported = "-Clink-arg=--import-memory";
    for (flags, flag) in [(pinned, "--initial-memory"), (imported, "--import-memory")] {
        let toolchain = fixture.options_with("RUSTFLAGS", flags);
        match build(&toolchain) {
            Err(error @ Error::LinkArgs { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&format!("remove `{flag}` from")), "{text}");
                assert!(std::error::Error::source(&error).is_none());
            }
            // Toolchains before 1.97 export `__heap_base`.
            Ok(build) if flags == pinned => {
                assert!(build.guests[0].report.memories[0].sites.grow > 0);
            }
            other => panic!("{flags}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_package_is_an_error_that_lists_the_guests() {
    let fixture = Fixture::of_guests(&[("one", IDLE), ("two", IDLE)]);
    fixture.package("library", "");
    fixture.source("library", "");
    for name in ["three", "library"] {
        let text = fails_with(
            &fixture.options_for(&["one", name]),
            |error| matches!(error, Error::UnknownPackage { known, .. } if *known == ["one", "two"]),
        );
        assert!(text.contains(&format!("`{name}`")), "{text}");
        assert!(text.ends_with("one, two"), "{text}");
    }
    assert!(!fixture.out_dir().exists());
}

#[test]
fn a_workspace_without_guests_is_an_error_that_defines_a_guest() {
    let fixture = Fixture::new();
    fixture.package("library", "");
    fixture.source("library", "");
    let text = fails_with(&fixture.options(), |error| {
        matches!(error, Error::NoGuests { .. })
    });
    assert!(text.contains("cdylib"), "{text}");
}

#[test]
fn two_guests_do_not_share_a_file() {
    let fixture = Fixture::of_guests(&[("same", IDLE)]);
    fixture.package(
        "other",
        "[[bin]]\nname = \"same\"\npath = \"src/main.rs\"\n",
    );
    fixture.write("guests/other/src/main.rs", "fn main() {}");
    fails_with(&fixture.options(), |error| {
        matches!(error, Error::SameName { .. })
    });
    build(&fixture.options_for(&["other"])).unwrap();
}

#[test]
fn a_guest_that_does_not_compile_leaves_the_outputs_unchanged() {
    let fixture = Fixture::of_guests(&[("a-sound", IDLE), ("broken", IDLE)]);
    build(&fixture.options()).unwrap();
    let before = fixture.outputs();
    assert_eq!(before.len(), 3);

    // The guest that changes comes first, and compiles.
    fixture.source("a-sound", ALLOCATING);
    fixture.source("broken", "compile_error!(\"broken\");");
    fails_with(
        &fixture.options(),
        |error| matches!(error, Error::Cargo { package, .. } if package == "broken"),
    );
    assert_eq!(fixture.outputs(), before);

    std::fs::remove_dir_all(fixture.out_dir()).unwrap();
    build(&fixture.options()).unwrap_err();
    assert!(!fixture.out_dir().exists());
}

#[test]
fn a_build_of_one_package_keeps_the_entries_of_existing_modules() {
    let fixture = Fixture::of_guests(&[("one", IDLE), ("three", IDLE), ("two", IDLE)]);
    build(&fixture.options()).unwrap();
    let before = Manifest::read(&fixture.out_dir()).unwrap();

    fixture.source("two", ALLOCATING);
    std::fs::remove_file(fixture.path("out/three.wasm")).unwrap();
    let build = build(&fixture.options_for(&["two"])).unwrap();

    assert_eq!(build.guests.len(), 1);
    let after = Manifest::read(&fixture.out_dir()).unwrap();
    assert_eq!(names(&after), ["one", "two"]);
    assert_eq!(after.guest("one"), before.guest("one"));
    assert_ne!(after.guest("two"), before.guest("two"));
    assert_eq!(after.guest("two"), build.guests.first());
}

#[test]
fn a_build_of_all_lists_only_what_it_built() {
    let fixture = Fixture::of_guests(&[("one", IDLE), ("two", IDLE)]);
    build(&fixture.options()).unwrap();
    std::fs::remove_dir_all(fixture.path("guests/two")).unwrap();
    build(&fixture.options()).unwrap();
    let manifest = Manifest::read(&fixture.out_dir()).unwrap();
    assert_eq!(names(&manifest), ["one"]);
}

#[test]
fn a_manifest_of_another_schema_is_not_changed_by_a_partial_build() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    let newer = SCHEMA + 1;
    let text = format!("{{ \"schema\": {newer}, \"modules\": 3 }}");
    fixture.write("out/manifest.json", &text);
    fails_with(
        &fixture.options_for(&["one"]),
        |error| matches!(error, Error::ManifestSchema { found, .. } if *found == newer),
    );
    fixture.write("out/manifest.json", "[]");
    fails_with(&fixture.options_for(&["one"]), |error| {
        matches!(error, Error::Manifest { .. })
    });
    assert_eq!(fixture.outputs()["manifest.json"], b"[]");

    // The remedy in both errors.
    build(&fixture.options()).unwrap();
    build(&fixture.options_for(&["one"])).unwrap();
}

#[test]
#[cfg(unix)]
fn outputs_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    build(&fixture.options()).unwrap();
    // Twice, because the second build replaces files.
    build(&fixture.options()).unwrap();
    let mode = |path| {
        let metadata = fixture.path(path).metadata().unwrap();
        metadata.permissions().mode() & 0o777
    };
    fixture.write("ordinary", "");
    assert_eq!(mode("out/one.wasm"), mode("ordinary"));
    assert_eq!(mode("out/manifest.json"), mode("ordinary"));
    assert_ne!(mode("ordinary"), 0o600, "this umask cannot tell");
}

#[test]
fn an_output_folder_that_cannot_be_created_is_named() {
    let fixture = Fixture::of_guests(&[("one", IDLE)]);
    fixture.write("out", "a file");
    fails_with(
        &fixture.options(),
        |error| matches!(error, Error::Write { path, .. } if *path == fixture.out_dir()),
    );
}

#[test]
fn the_manifest_path_may_be_that_of_a_member() {
    let fixture = Fixture::of_guests(&[("one", IDLE), ("two", IDLE)]);
    let mut options = fixture.options();
    options.manifest_path = fixture.path("guests/one/Cargo.toml");
    assert_eq!(build(&options).unwrap().guests.len(), 2);
}

#[test]
fn a_workspace_that_cargo_cannot_read_is_named() {
    let fixture = Fixture::new();
    fixture.write("broken/Cargo.toml", "[workspace");
    for folder in ["broken", "missing"] {
        let mut options = fixture.options();
        options.manifest_path = fixture.path(folder).join("Cargo.toml");
        let text = fails_with(&options, |error| matches!(error, Error::Workspace { .. }));
        let manifest = options.manifest_path.to_str().unwrap();
        assert!(text.contains(manifest), "{text}");
    }
}

#[test]
fn a_folder_name_may_contain_a_space() {
    let fixture = Fixture::new();
    fixture.package("one", CDYLIB);
    fixture.source("one", IDLE);
    let mut options = fixture.options();
    options.out_dir = fixture.path("two words/out");
    let build = build(&options).unwrap();
    assert!(build.path("one").unwrap().is_file());
}
