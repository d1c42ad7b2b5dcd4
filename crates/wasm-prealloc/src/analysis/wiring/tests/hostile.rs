//! Components that are invalid, or that instantiation would expand beyond any limit.

use std::fmt::Write as _;

use super::generate::random_component;
use super::{ENV_AND_LIBC, read, validate, wiring};
use crate::analysis::Analysis;

/// Reads the wiring of a component that need not be valid.
fn error(content: &str) -> String {
    let wasm = wat::parse_str(format!("(component {content})")).unwrap();
    read(&wasm).unwrap_err().to_string()
}

/// Components that each instantiate the previous one twice, with different arguments if there is a
/// parameter.
fn doubling(levels: usize, has_parameter: bool) -> String {
    let instances = r#"
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    let parameter = match has_parameter {
        true => r#"(import "a" (instance $a))"#,
        false => "",
    };
    let mut text = format!("(component $c0 {parameter} {ENV_AND_LIBC} {instances})");
    for level in 1..=levels {
        let before = level - 1;
        write!(
            text,
            "(component $c{level} {parameter} (alias outer 1 $c{before} (component $c))"
        )
        .unwrap();
        for export in ["x", "y"] {
            match has_parameter {
                true => write!(
                    text,
                    r#"(instance ${export} (export "{export}" (instance $a)))
                    (instance (instantiate $c (with "a" (instance ${export}))))"#
                ),
                false => write!(text, "(instance (instantiate $c))"),
            }
            .unwrap();
        }
        text.push(')');
    }
    let argument = if has_parameter {
        r#"(with "a" (instance $a))"#
    } else {
        ""
    };
    write!(
        text,
        "(instance $a) (instance (instantiate $c{levels} {argument}))"
    )
    .unwrap();
    text
}

#[test]
fn equal_instances_are_evaluated_once() {
    // Instantiation would make 2^60 instances, so the validator refuses the component.
    let wasm = wat::parse_str(format!("(component {})", doubling(60, false))).unwrap();
    assert_eq!(read(&wasm).unwrap(), "=0.0 1.0");
}

#[test]
fn too_many_different_instances_are_reported() {
    let text = doubling(4, true);
    assert_eq!(wiring(&text), "=0.0 1.0");
    let wasm = wat::parse_str(format!("(component {})", doubling(60, true))).unwrap();
    assert_eq!(read(&wasm).unwrap(), "=0.0 1.0 unknown");
}

#[test]
fn a_component_that_instantiates_itself_is_an_error() {
    let content = r#"
        (component $f
            (import "f" (component $g))
            (instance (instantiate $g (with "f" (component $g)))))
        (instance (instantiate $f (with "f" (component $f))))
    "#;
    let error = error(content);
    assert!(
        error.ends_with("a component instantiates itself"),
        "{error}"
    );
}

#[test]
fn unknown_items_are_errors() {
    let cases = [
        ("(core instance (instantiate 5))", "unknown core module 5"),
        ("(instance (instantiate 5))", "unknown component 5"),
        (r#"(alias export 5 "a" (instance))"#, "unknown instance 5"),
        (
            r#"(alias core export 5 "a" (core memory))"#,
            "unknown core instance 5",
        ),
        (
            r#"(core instance (export "a" (memory 5)))"#,
            "unknown core memory 5",
        ),
        (r#"(export "a" (core module 5))"#, "unknown core module 5"),
        ("(alias outer 5 0 (component))", "unknown outer component 5"),
        ("(alias outer 0 5 (core module))", "unknown core module 5"),
        (
            r#"(core module $m (import "env" "memory" (memory 1))) (core instance (instantiate $m))"#,
            "core module 0 needs `env`",
        ),
        (
            r#"(core module $m (import "env" "memory" (memory 1))) (core instance $e)
               (core instance (instantiate $m (with "env" (instance $e))))"#,
            "there is no core memory `memory`",
        ),
        (
            r#"(instance $i) (alias export $i "a" (component))"#,
            "there is no component `a`",
        ),
        (
            r#"(component $c (import "a" (core module))) (instance (instantiate $c))"#,
            "there is no module `a`",
        ),
        (
            r#"(component $c (import "a" (core module))) (instance $i)
               (instance (instantiate $c (with "a" (instance $i))))"#,
            "there is no module `a`",
        ),
    ];
    for (content, expected) in cases {
        let error = error(content);
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn mutations_of_components_are_read_or_refused() {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut read, mut refused) = (0, 0);
    for seed in 0..100 {
        let wasm = validate(&random_component(seed));
        for _ in 0..50 {
            let mut mutation = wasm.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..mutation.len());
                mutation[at] = random.u8(..);
            }
            let analysis = Analysis::new(&mutation);
            match analysis.and_then(|analysis| analysis.wiring().map(drop)) {
                Ok(()) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        read > 500 && refused > 500,
        "{read} read, {refused} refused"
    );
}
