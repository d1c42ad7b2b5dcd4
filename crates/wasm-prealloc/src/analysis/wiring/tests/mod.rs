//! Components whose links are known. Each group of memories is written as the memories that are
//! defined, then those that are imported, each as `module.memory`; `x2` follows a repeated import.

mod generate;
mod hostile;
mod random;

use super::Wiring;
use super::group::{Group, Hidden};
use wasmparser::{Validator, WasmFeatures};

use crate::analysis::Analysis;
use crate::error::Error;

fn read(wasm: &[u8]) -> Result<String, Error> {
    let analysis = Analysis::new(wasm)?;
    Ok(describe(analysis.wiring()?))
}

fn describe(wiring: &Wiring) -> String {
    let groups: Vec<_> = wiring.groups().iter().map(describe_group).collect();
    groups.join("; ")
}

fn describe_group(group: &Group) -> String {
    let members = group.members.iter();
    let mut parts: Vec<_> = members
        .map(|member| {
            let defined = group.definitions.contains(&member.memory);
            let sign = if defined { "=" } else { "" };
            let repeated = if member.repeated { "x2" } else { "" };
            let module = member.memory.module.unwrap_or(0);
            format!("{sign}{module}.{}{repeated}", member.memory.index)
        })
        .collect();
    match group.hidden.as_ref().map(|(_, hidden)| hidden) {
        None => {}
        Some(Hidden::ImportedModule { name, .. }) => parts.push(format!("imported {name}")),
        Some(Hidden::Exported) => parts.push("exported".to_owned()),
        Some(Hidden::NotInstantiated) => parts.push("idle".to_owned()),
        Some(Hidden::TooManyInstances) => parts.push("unknown".to_owned()),
    }
    parts.join(" ")
}

/// Encodes a text, which must be valid.
fn validate(text: &str) -> Vec<u8> {
    let wasm = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(&wasm).unwrap();
    wasm
}

/// Reads the wiring of a valid component.
fn wiring(content: &str) -> String {
    let wasm = validate(&format!("(component {content})"));
    read(&wasm).unwrap()
}

/// Two core modules: one defines a memory, and one imports it as `env` `memory`.
const ENV_AND_LIBC: &str = r#"
    (core module $env (memory (export "memory") 1))
    (core module $libc (import "env" "memory" (memory 1)))
"#;

#[test]
fn an_import_is_linked_to_an_export() {
    let instances = r#"
        (core instance $e (instantiate $env))
        (core instance $l (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(wiring(&format!("{ENV_AND_LIBC} {instances}")), "=0.0 1.0");
}

#[test]
fn an_unrelated_memory_has_its_own_group() {
    let content = r#"
        (core module $other (memory 1))
        (core instance $e (instantiate $env))
        (core instance $l (instantiate $libc (with "env" (instance $e))))
        (core instance $o (instantiate $other))
    "#;
    assert_eq!(
        wiring(&format!("{ENV_AND_LIBC} {content}")),
        "=0.0 1.0; =2.0"
    );
}

#[test]
fn a_module_instantiated_twice_on_one_memory_is_repeated() {
    let content = r#"
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(wiring(&format!("{ENV_AND_LIBC} {content}")), "=0.0 1.0x2");
}

#[test]
fn a_module_instantiated_on_two_memories_is_not_repeated() {
    let content = r#"
        (core instance $e1 (instantiate $env))
        (core instance $e2 (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e1))))
        (core instance (instantiate $libc (with "env" (instance $e2))))
    "#;
    assert_eq!(wiring(&format!("{ENV_AND_LIBC} {content}")), "=0.0 1.0");
}

#[test]
fn a_module_links_the_definitions_that_it_is_instantiated_with() {
    let content = r#"
        (core module $env2 (memory 1) (memory (export "memory") 5))
        (core instance $e1 (instantiate $env))
        (core instance $e2 (instantiate $env2))
        (core instance (instantiate $libc (with "env" (instance $e1))))
        (core instance (instantiate $libc (with "env" (instance $e2))))
    "#;
    assert_eq!(
        wiring(&format!("{ENV_AND_LIBC} {content}")),
        "=0.0 1.0 =2.1; =2.0"
    );
}

#[test]
fn a_memory_passes_through_aliases_and_inline_exports() {
    let content = r#"
        (core instance $e (instantiate $env))
        (alias core export $e "memory" (core memory $m))
        (core instance $inline (export "memory" (memory $m)) (export "mem" (memory $m)))
        (alias core export $inline "mem" (core memory $again))
        (core instance (instantiate $libc
            (with "env" (instance (export "memory" (memory $again))))))
    "#;
    assert_eq!(wiring(&format!("{ENV_AND_LIBC} {content}")), "=0.0 1.0");
}

#[test]
fn a_memory_passes_through_a_module_that_exports_its_import() {
    let content = r#"
        (core module $pass
            (import "other" "table" (memory 1))
            (import "env" "memory" (memory 1))
            (memory 1)
            (export "own" (memory 2)) (export "renamed" (memory 1)))
        (core module $user (import "pass" "renamed" (memory 1)) (import "pass" "own" (memory 1)))
        (core instance $e (instantiate $env))
        (core instance $o (instantiate $env))
        (alias core export $o "memory" (core memory $m))
        (core instance $p (instantiate $pass
            (with "other" (instance (export "table" (memory $m))))
            (with "env" (instance $e))))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $user (with "pass" (instance $p))))
    "#;
    assert_eq!(
        wiring(&format!("{ENV_AND_LIBC} {content}")),
        "=0.0 1.0 2.0 2.1 3.0; =2.2 3.1"
    );
}

#[test]
fn one_memory_for_two_imports_of_a_module_is_one_group() {
    let content = r#"
        (core module $env (memory (export "memory") 1))
        (core module $both (import "a" "memory" (memory 1)) (import "b" "memory" (memory 1)))
        (core instance $e (instantiate $env))
        (core instance (instantiate $both (with "a" (instance $e)) (with "b" (instance $e))))
    "#;
    assert_eq!(wiring(content), "=0.0 1.0 1.1");
}

#[test]
fn core_modules_are_found_in_components_around_and_in_exports_of_instances() {
    let content = r#"
        (component $c
            (core module $env (memory (export "memory") 1))
            (component $d
                (alias outer 1 $env (core module $e))
                (export "env" (core module $e)))
            (instance $d (instantiate $d))
            (alias export $d "env" (core module $env2))
            (instance $inline (export "env" (core module $env2)))
            (export "inner" (instance $inline)))
        (core module $libc (import "env" "memory" (memory 1)))
        (instance $c (instantiate $c))
        (alias export $c "inner" (instance $i))
        (alias export $i "env" (core module $env))
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(wiring(content), "=0.0 1.0");
}

/// A component that instantiates the core module `env` that it is given, and its own `libc` on it.
/// The component's type has a memory in it, as it must.
const TAKES_ENV: &str = r#"
    (component $c
        (core type $T (module (export "memory" (memory 1))))
        (import "env" (core module $env (type $T)))
        (core module $libc (import "env" "memory" (memory 1)))
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e)))))
"#;

#[test]
fn core_modules_are_arguments_of_components() {
    let content = r#"
        (core module $a (memory (export "memory") 1))
        (core module $b (memory (export "memory") 2))
        (core module $unused (memory (export "memory") 2))
        (instance (instantiate $c (with "env" (core module $a))))
        (instance (instantiate $c (with "env" (core module $b))))
        (instance (instantiate $c (with "env" (core module $b))))
    "#;
    assert_eq!(
        wiring(&format!("{TAKES_ENV} {content}")),
        "0.0 =1.0 =2.0; =3.0"
    );
}

#[test]
fn components_are_arguments_of_components() {
    let content = r#"
        (component $apply
            (core type $T (module (export "memory" (memory 1))))
            (import "f" (component $f (import "env" (core module (type $T)))))
            (core module $env (memory (export "memory") 3))
            (instance (instantiate $f (with "env" (core module $env)))))
        (instance (instantiate $apply (with "f" (component $c))))
    "#;
    assert_eq!(wiring(&format!("{TAKES_ENV} {content}")), "0.0 =1.0");
}

#[test]
fn a_component_keeps_the_instance_that_it_is_defined_in() {
    // `f` is defined in two instances of `outer`, with different modules.
    let content = r#"
        (component $outer
            (core type $T (module (export "memory" (memory 1))))
            (import "env" (core module $env (type $T)))
            (component $f
                (alias outer 1 $env (core module $e))
                (core module $libc (import "env" "memory" (memory 1)))
                (core instance $i (instantiate $e))
                (core instance (instantiate $libc (with "env" (instance $i)))))
            (export "f" (component $f)))
        (core module $a (memory (export "memory") 1))
        (core module $b (memory (export "memory") 1))
        (instance $a (instantiate $outer (with "env" (core module $a))))
        (instance $b (instantiate $outer (with "env" (core module $b))))
        (alias export $b "f" (component $f))
        (instance (instantiate $f))
    "#;
    assert_eq!(wiring(content), "0.0 =2.0; =1.0");
}

#[test]
fn imports_and_exports_add_to_the_index_spaces() {
    let content = r#"
        (import "i" (instance $i))
        (import "m" (core module $m))
        (core module $env (memory (export "memory") 1))
        (component $c)
        (instance $own (instantiate $c))
        (export $own2 "own" (instance $own))
        (core module $libc (import "env" "memory" (memory 1)))
        (component $d
            (core module $env (memory (export "memory") 1))
            (export "env" (core module $env)))
        (instance $d (instantiate $d))
        (export $d2 "d" (instance $d))
        (alias export $d2 "env" (core module $env2))
        (core instance $e (instantiate $env2))
        (core instance (instantiate $libc (with "env" (instance $e))))
        (core instance (instantiate $m))
    "#;
    assert_eq!(wiring(content), "=0.0; 1.0 =2.0 exported");
}

#[test]
fn an_importer_without_an_instance_is_reported() {
    assert_eq!(wiring(ENV_AND_LIBC), "=0.0; 1.0 idle");
    let exported = format!("{ENV_AND_LIBC} (export \"libc\" (core module $libc))");
    assert_eq!(wiring(&exported), "=0.0; 1.0 exported");
}

#[test]
fn a_component_that_is_only_exported_is_evaluated() {
    let content = r#"
        (component $c
            (core module $env (memory (export "memory") 1))
            (core module $libc (import "env" "memory" (memory 1)))
            (core module $user (import "env" "memory" (memory 1)))
            (core instance $e (instantiate $env))
            (core instance (instantiate $libc (with "env" (instance $e))))
            (export "user" (core module $user)))
        (export "c" (component $c))
    "#;
    assert_eq!(wiring(content), "=0.0 1.0; 2.0 exported");
}

#[test]
fn an_exported_module_that_exports_its_memory_is_exposed() {
    let content = r#"
        (core module $env (memory (export "memory") 1) (memory 1))
        (export "env" (core module $env))
    "#;
    assert_eq!(wiring(content), "=0.0 exported; =0.1");
}

#[test]
fn a_memory_of_an_imported_module_is_hidden() {
    let content = r#"
        (core type $T (module (export "memory" (memory 1))))
        (import "libc" (core module $Libc (type $T)))
        (core instance $l (instantiate $Libc))
        (core module $M (import "libc" "memory" (memory 1)))
        (core instance (instantiate $M (with "libc" (instance $l))))
    "#;
    assert_eq!(wiring(content), "0.0 imported libc");
}

#[test]
fn a_memory_that_an_imported_module_uses_is_hidden() {
    let content = r#"
        (core type $T (module (import "env" "memory" (memory 1))))
        (import "libc" (core module $libc (type $T)))
        (core module $env (memory (export "memory") 1) (memory 1))
        (core instance $e (instantiate $env))
        (core instance (instantiate $libc (with "env" (instance $e))))
    "#;
    assert_eq!(wiring(content), "=0.0 imported libc; =0.1");
}

#[test]
fn modules_that_an_imported_component_uses_are_exposed() {
    let content = r#"
        (core type $T (module (import "env" "memory" (memory 1))))
        (import "linker" (component $linker (import "m" (core module (type $T)))))
        (core module $m (import "env" "memory" (memory 1)))
        (instance (instantiate $linker (with "m" (core module $m))))
    "#;
    assert_eq!(wiring(content), "0.0 exported");
}

#[test]
fn memories_in_types_are_found() {
    let typed = |content: &str| {
        let wasm = wat::parse_str(format!("(component {content})")).unwrap();
        let analysis = Analysis::new(&wasm).unwrap();
        let typed = analysis.wiring().unwrap().typed_memory.clone();
        typed.map(|typed| (typed.name, wasm[typed.offset as usize]))
    };
    let (module, component, instance) = (0x50, 0x41, 0x42);
    assert_eq!(
        typed(r#"(core type (module (import "a" "b" (func))))"#),
        None
    );
    assert_eq!(
        typed(r#"(core type (module (import "a" "b" (memory 1))))"#),
        Some(("`a` `b`".to_owned(), module))
    );
    assert_eq!(
        typed(r#"(core type (module)) (core type (module (export "b" (memory 1))))"#),
        Some(("`b`".to_owned(), module))
    );
    assert_eq!(
        typed(r#"(type (component (import "m" (core module (export "b" (memory 1))))))"#),
        Some(("`b`".to_owned(), component))
    );
    assert_eq!(
        typed(
            r#"(type (instance (type (instance (export "m" (core module (export "b" (memory 1))))))))"#
        ),
        Some(("`b`".to_owned(), instance))
    );
}

#[test]
fn a_core_module_links_nothing() {
    let wasm = wat::parse_str(r#"(module (import "a" "b" (memory 1)) (memory 1))"#).unwrap();
    assert_eq!(read(&wasm).unwrap(), "0.0; =0.1");
}
