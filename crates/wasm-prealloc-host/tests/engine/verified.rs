//! Verification before any of a module runs, and the origin of errors.

use wasm_prealloc_host::{Error, InstantiateError, PolicyError, VerifyError, WasmtimePool};
use wasmtime::{Caller, Instance, Linker, Trap};

use crate::Host;

#[test]
fn a_memory_that_can_grow_is_not_pinned() {
    for (declared, found) in [
        ("17", (17, None)),
        ("16", (16, None)),
        ("0 16", (0, Some(16))),
        ("16 17", (16, Some(17))),
        ("17 17", (17, Some(17))),
    ] {
        match Host::of_pages(16).refusal(&format!("(module (memory {declared}))")) {
            Error::Verify(VerifyError::Policy(PolicyError::NotPinned {
                minimum,
                maximum,
                expected: 16,
            })) => assert_eq!((minimum, maximum), found, "{declared}"),
            other => panic!("{declared}: {other}"),
        }
    }
}

#[test]
fn every_memory_of_a_module_is_verified() {
    let error = Host::of_pages(16).refusal("(module (memory 16 16) (memory 1))");
    assert!(
        matches!(
            error.policy(),
            Some(PolicyError::NotPinned { minimum: 1, .. })
        ),
        "{error}"
    );
    Host::of_pages(16)
        .instantiate("(module (memory 16 16) (memory 16 16))")
        .unwrap();
}

#[test]
fn memories_of_another_kind_are_refused() {
    let error = Host::of_pages(16).refusal("(module (memory 16 16 (pagesize 1)))");
    assert!(error.to_string().contains("custom-page-size"), "{error}");
}

#[test]
fn an_imported_memory_is_refused_by_name() {
    match Host::of_pages(16).refusal(r#"(module (import "env" "memory" (memory 16 16)))"#) {
        Error::Verify(VerifyError::ImportedMemory { module, name }) => {
            assert_eq!((module.as_str(), name.as_str()), ("env", "memory"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn errors_of_the_engine_are_kept() {
    let mut host = Host::of_pages(16);
    let text = "(module (memory 16 16) (func $f unreachable) (start $f))";
    match host.instantiate(text) {
        Err(InstantiateError::Engine(error)) => {
            let trap = error.downcast_ref::<Trap>().copied();
            assert_eq!(trap, Some(Trap::UnreachableCodeReached));
        }
        other => panic!("{other:?}"),
    }
    match host.instantiate(r#"(module (import "env" "f" (func)))"#) {
        Err(InstantiateError::Engine(error)) => assert!(error.to_string().contains("env")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_that_a_start_function_ignored_is_not_the_cause() {
    let mut host = Host::of_pages(16);
    let growing = host.module("(module (memory 1))");
    let mut linker = Linker::new(&host.engine);
    let inner = move |mut caller: Caller<'_, ()>| {
        // wasmtime's own function does not take the refusal.
        assert!(Instance::new(&mut caller, &growing, &[]).is_err());
    };
    linker.func_wrap("env", "inner", inner).unwrap();
    let text = r#"(module
        (import "env" "inner" (func $inner))
        (memory 16 16)
        (func $start (call $inner) unreachable)
        (start $start))"#;
    let module = host.module(text);
    let result = host.pool.instantiate(&linker, &mut host.store, &module);
    assert!(matches!(result, Err(InstantiateError::Engine(_))));
}

#[test]
fn the_engines_error_contains_the_whole_message() {
    let mut host = Host::of_pages(16);
    let module = host.module("(module (memory 1))");
    let error = Instance::new(&mut host.store, &module, &[]).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("wasm-prealloc rewrite --pages 16"), "{text}");
}
