//! Components whose core modules share memories: the place of the counter, and the refusals.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use wasm_prealloc::{
    EmulateFrom, Growth, GrowthHandling, MAX_PAGES, MemoryId, Options, rewrite, verify,
};

fn component(content: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {content})")).unwrap()
}

/// Describes the growth of each memory that is grown or measured: `module: start..cap`, and the address
/// of the counter if it is in the memory.
fn growth(content: &str) -> String {
    let wasm = component(content);
    let rewritten = rewrite(&wasm, &Options::default()).unwrap();
    let memories = rewritten.report.memories.iter();
    let described = memories.filter_map(|memory| {
        let module = memory.before.id.module.unwrap();
        match memory.growth {
            GrowthHandling::Emulated {
                from_pages,
                cap_pages,
                address,
                ..
            } => {
                let address = address.map(|address| format!(" at {address:#x}"));
                let address = address.unwrap_or_default();
                Some(format!("{module}: {from_pages}..{cap_pages}{address}"))
            }
            GrowthHandling::Fixed { pages, .. } => Some(format!("{module}: {pages}")),
            _ => None,
        }
    });
    described.collect::<Vec<_>>().join(", ")
}

/// The text of a refusal. If its remedy names an option, the remedy is tried.
fn refusal(content: &str) -> String {
    let wasm = component(content);
    let error = rewrite(&wasm, &Options::default()).unwrap_err();
    let text = error.to_string();
    if text.ends_with("choose `Growth::Keep`") {
        let mut options = Options::default();
        options.growth = Growth::Keep;
        let rewritten = rewrite(&wasm, &options).unwrap();
        assert!(verify(&rewritten.wasm, MAX_PAGES).is_ok());
    } else {
        assert!(text.contains("core module type"), "{text}");
    }
    text
}

/// A module that defines a memory of 1 to 50 pages, and one that grows a memory that it imports.
const MODULES: &str = r#"
    (core module $env (memory (export "memory") 1 50))
    (core module $libc
        (import "env" "memory" (memory 0))
        (func (result i32) (memory.grow (i32.const 1))))
"#;

#[test]
fn a_memory_that_one_module_grows_is_counted_in_a_global() {
    let content = r#"
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(growth(&format!("{MODULES} {content}")), "1: 1..50");
}

#[test]
fn a_module_on_two_memories_of_equal_limits_has_a_global_for_each() {
    let content = r#"
        (core module $env2 (memory (export "memory") 1 50) (data (i32.const 0) "other"))
        (core instance $e (instantiate $env))
        (core instance $e2 (instantiate $env2))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e2))))
    "#;
    assert_eq!(growth(&format!("{MODULES} {content}")), "1: 1..50");
}

#[test]
fn a_module_twice_on_one_memory_is_counted_in_the_memory() {
    let content = r#"
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(
        growth(&format!("{MODULES} {content}")),
        "1: 1..50 at 0xffff0000"
    );
}

#[test]
fn modules_that_grow_and_measure_one_memory_count_in_it() {
    let content = r#"
        (core module $measuring
            (import "env" "memory" (memory 0))
            (func (result i32) (memory.size)))
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $measuring (with "env" (instance $e))))
    "#;
    assert_eq!(
        growth(&format!("{MODULES} {content}")),
        "1: 1..50 at 0xffff0000, 2: 1..50 at 0xffff0000"
    );
}

#[test]
fn a_size_that_no_code_changes_is_the_minimum_of_the_definition() {
    let content = r#"
        (core module $env (memory (export "memory") 7))
        (core module $measuring
            (import "env" "memory" (memory 0))
            (func (result i32) (memory.size)))
        (core instance $e (instantiate $env))
        (core instance (instantiate $measuring (with "env" (instance $e))))
    "#;
    assert_eq!(growth(content), "1: 7");
}

#[test]
fn memories_of_different_limits_are_refused() {
    let content = r#"
        (core module $env2 (memory (export "memory") 2 50))
        (core instance $e (instantiate $env))
        (core instance $e2 (instantiate $env2))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e2))))
    "#;
    let refusal = refusal(&format!("{MODULES} {content}"));
    assert!(
        refusal.contains("which is linked to memories with different limits"),
        "{refusal}"
    );
}

#[test]
fn links_that_cannot_be_seen_are_refused_by_name() {
    let exported = r#"(export "libc" (core module $libc))"#;
    let refused = refusal(&format!("{MODULES} {exported}"));
    assert!(
        refused
            .contains("memory 0 of core module 1, because the component exports its core module"),
        "{refused}"
    );
    let refused = refusal(MODULES);
    assert!(
        refused.contains(
            "memory 0 of core module 1, because the component does not instantiate the core module \
             that imports it"
        ),
        "{refused}"
    );
    let typed = r#"
        (core type $T (module (export "memory" (memory 1))))
        (import "libc" (core module $libc (type $T)))
        (core instance $l (instantiate $libc))
        (core module $m (import "libc" "memory" (memory 1)) (func (result i32) (memory.size)))
        (core instance (instantiate $m (with "libc" (instance $l))))
    "#;
    let refused = refusal(typed);
    assert!(
        refused.contains("a core module type with a memory, `memory` (at offset 0xb)"),
        "{refused}"
    );
}

#[test]
fn a_hidden_memory_that_no_code_grows_is_pinned() {
    let content = r#"
        (core module $unused (import "env" "memory" (memory 0)))
        (core module $other (memory 3) (func (result i32) (memory.grow (i32.const 1))))
        (core instance (instantiate $other))
        (export "unused" (core module $unused))
    "#;
    assert_eq!(growth(content), "1: 3..65536");
}

#[test]
fn data_of_an_import_may_lie_above_the_import_s_minimum_if_nothing_grows() {
    let content = r#"
        (core module $env (memory (export "memory") 17 50))
        (core module $data (import "env" "memory" (memory 0)) (data (i32.const 8) "data"))
        (core instance $e (instantiate $env))
        (core instance (instantiate $data (with "env" (instance $e))))
    "#;
    let wasm = component(content);
    let rewritten = rewrite(&wasm, &Options::default()).unwrap();
    assert!(verify(&rewritten.wasm, MAX_PAGES).is_ok());
}

#[test]
fn linked_memories_have_the_size_of_their_definition() {
    let content = r#"
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    let wasm = component(&format!("{MODULES} {content}"));
    let definition = MemoryId {
        module: Some(0),
        index: 0,
    };
    let mut options = Options::default();
    options.memory_pages.insert(definition, 100);
    let rewritten = rewrite(&wasm, &options).unwrap();
    assert!(verify(&rewritten.wasm, 100).is_ok());
}

#[test]
fn memories_with_different_heap_bases_do_not_share_one() {
    let content = r#"
        (core module $env (memory (export "memory") 50 50)
            (global (export "__heap_base") i32 (i32.const 70000)))
        (core module $env2 (memory (export "memory") 50 50)
            (global (export "__heap_base") i32 (i32.const 700000)))
        (core module $libc
            (import "env" "memory" (memory 0))
            (func (result i32) (memory.grow (i32.const 1))))
        (core instance $e (instantiate $env))
        (core instance $e2 (instantiate $env2))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e2))))
    "#;
    let mut options = Options::default();
    options.emulate_from = EmulateFrom::HeapBase;
    let error = rewrite(&component(content), &options).unwrap_err();
    assert!(
        error.to_string().contains("different heap bases"),
        "{error}"
    );
}
