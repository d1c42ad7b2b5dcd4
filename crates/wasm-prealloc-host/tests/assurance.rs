//! Pools whose memory is not secured: the same answers, and little memory.
//!
//! The tests set an environment variable, so each runs in a process of its own.
#![cfg(all(target_os = "linux", feature = "wasmtime"))]
#![allow(unsafe_code, reason = "a test sets an environment variable")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use support::{in_child_process, skipped, status_kib};
use wasm_prealloc_host::{
    ASSURANCE_VARIABLE, Assurance, LockOptions, MemoryPool, MemoryPoolBuilder, Policy, SecureError,
    WasmtimePool,
};
use wasmtime::{Config, Engine, Instance, Linker, Module, Store};

const ALL: [Assurance; 3] = Assurance::ALL;

fn set_variable(value: &str) {
    // SAFETY: the process has no other thread that reads or sets variables.
    unsafe { std::env::set_var(ASSURANCE_VARIABLE, value) };
}

fn module(engine: &Engine, text: &str) -> Module {
    Module::new(engine, wat::parse_str(text).unwrap()).unwrap()
}

/// Instantiates a module and grows its memory, and describes what it sees.
fn answers(builder: MemoryPoolBuilder, text: &str) -> String {
    let pool = builder.pages(32).slots(2).secure().unwrap();
    let engine = pool.engine(&mut Config::new()).unwrap();
    let module = module(&engine, text);
    let verified = pool.verify(&module).map_err(|error| error.to_string());
    let mut store = Store::new(&engine, ());
    let made = pool.instantiate(&Linker::new(&engine), &mut store, &module);
    let seen = made.map_err(|error| error.to_string()).map(|instance| {
        let mut grow = |pages: i32| {
            let grow = instance.get_typed_func::<i32, (i32, i32)>(&mut store, "grow");
            grow.unwrap().call(&mut store, pages).unwrap()
        };
        [grow(0), grow(3), grow(100), grow(0)]
    });
    drop(store);
    let lent = [
        pool.lend(32, Some(32)),
        pool.lend(0, Some(8)),
        pool.lend(1, None),
    ]
    .map(|lent| lent.map(|memory| (memory.len(), memory.maximum_bytes())));
    let lent = lent.map(|lent| lent.map_err(|error| error.to_string()));
    let all = pool.reserve(2).unwrap();
    let refused = pool.reserve(3).unwrap_err().to_string();
    drop(all);
    format!("{verified:?} {seen:?} {lent:?} {refused}")
}

/// Returns every policy.
fn policies(cap: u64) -> [Policy; 3] {
    [
        Policy::Declared,
        Policy::CommitMaximum,
        Policy::Cap { pages: cap },
    ]
}

#[test]
fn modules_see_the_same_with_every_assurance() {
    const GROW: &str = r#"(func (export "grow") (param i32) (result i32 i32)
        (memory.grow (local.get 0)) memory.size)"#;
    for policy in policies(32) {
        for limits in ["32 32", "1 8", "1", "33 33", "0 32"] {
            let text = format!("(module (memory {limits}) {GROW})");
            let builder = || MemoryPool::builder().policy(policy);
            let [required, best, off] =
                ALL.map(|assurance| answers(builder().assurance(assurance), &text));
            assert_eq!(required, best);
            assert_eq!(required, off);
        }
    }
}

#[test]
fn memory_comes_on_first_touch_and_goes_with_the_loan() {
    if in_child_process(
        "memory_comes_on_first_touch_and_goes_with_the_loan",
        "ASSURANCE_TOUCH",
    ) {
        return;
    }
    let resident_mib = || status_kib("VmRSS") >> 10;
    for policy in policies(65_536) {
        let pool = MemoryPool::builder().assurance(Assurance::Off);
        let pool = pool.engine_heap_bytes(1 << 20);
        let pool = pool.policy(policy).secure().unwrap();
        assert_eq!(pool.assurance(), Assurance::Off);
        assert_eq!(pool.secured(), None);
        assert_eq!(pool.check().unwrap().expected_bytes, 0);
        assert!(pool.unsecured().unwrap().contains("not for production"));
        let before = resident_mib();
        let mut memory = pool.lend(65_536, Some(65_536)).unwrap();
        assert!(resident_mib() < before + 2);
        memory.bytes_mut()[..64 << 20].fill(7);
        assert!(resident_mib() > before + 60);
        let counted = pool.check().unwrap();
        assert_eq!(
            (counted.expected_bytes, counted.resident_bytes),
            (0, 64 << 20)
        );
        drop(memory);
        assert!(resident_mib() < before + 2);
        let memory = pool.lend(65_536, Some(65_536)).unwrap();
        assert!(support::is_zero(&memory.bytes()[..64 << 20]));
    }
}

#[test]
fn the_environment_decides_where_the_code_does_not() {
    if in_child_process(
        "the_environment_decides_where_the_code_does_not",
        "ASSURANCE_VARIABLE_TEST",
    ) {
        return;
    }
    let builder = || MemoryPool::builder().pages(16);
    let reached = |builder: MemoryPoolBuilder| builder.secure().unwrap().assurance();
    assert_eq!(reached(builder()), Assurance::Required);
    for assurance in ALL {
        set_variable(assurance.as_str());
        assert_eq!(reached(builder()), assurance);
        for code in ALL {
            assert_eq!(reached(builder().assurance(code)), code);
        }
    }
    set_variable("of");
    let error = builder().secure().unwrap_err();
    assert!(matches!(&error, SecureError::Assurance { value } if value == "of"));
    let text = error.to_string();
    for named in [ASSURANCE_VARIABLE, "required", "best-effort", "off"] {
        assert!(text.contains(named), "{text}");
    }
    assert_eq!(reached(builder().assurance(Assurance::Off)), Assurance::Off);
}

/// A lock that cannot be had is the reason here.
#[test]
fn best_effort_goes_on_without_and_says_why() {
    let mut lock = LockOptions::default();
    lock.path = PathBuf::from("/nowhere/lock");
    let builder = || MemoryPool::builder().pages(16).lock(lock.clone());
    assert!(builder().secure().is_err());
    // No lock is taken.
    builder().assurance(Assurance::Off).secure().unwrap();
    let pool = builder().assurance(Assurance::BestEffort).secure().unwrap();
    assert_eq!((pool.assurance(), pool.secured()), (Assurance::Off, None));
    let report = pool.unsecured().unwrap();
    assert!(
        report.contains("/nowhere/lock") && report.contains("best-effort"),
        "{report}"
    );
    let impossible = MemoryPool::builder().pages(65_537);
    let refused = impossible.assurance(Assurance::BestEffort).secure();
    assert!(matches!(refused, Err(SecureError::PageCount { .. })));
}

/// Fifty hosts of 4 GiB each, in a memory cgroup of 512 MiB where that can be made.
#[test]
fn fifty_hosts_fit_in_512_mib() {
    if in_child_process("fifty_hosts_fit_in_512_mib", "ASSURANCE_FIFTY") {
        return;
    }
    let group = PathBuf::from(format!(
        "/sys/fs/cgroup/memory/wasm-prealloc-{}",
        std::process::id()
    ));
    let limited = std::fs::create_dir(&group)
        .and_then(|()| std::fs::write(group.join("memory.limit_in_bytes"), "512M"))
        .and_then(|()| std::fs::write(group.join("cgroup.procs"), "0"));
    if let Err(error) = limited {
        skipped(&format!("no memory cgroup can be made here: {error}"));
    }
    set_variable("off");
    let text = r#"(module (memory (export "memory") 65536 65536)
        (data (i32.const 70000) "data"))"#;
    let hosts: Vec<(Store<()>, Instance, MemoryPool)> = (0..50)
        .map(|_| {
            let pool = MemoryPool::builder().secure().unwrap();
            let engine = pool.engine(&mut Config::new()).unwrap();
            let mut store = Store::new(&engine, ());
            let module = module(&engine, text);
            let instance = pool.instantiate(&Linker::new(&engine), &mut store, &module);
            (store, instance.unwrap(), pool)
        })
        .collect();
    for (mut store, instance, pool) in hosts {
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        assert_eq!(memory.data_size(&store), 4 << 30);
        memory.data_mut(&mut store)[(4 << 30) - 1] = 1;
        assert_eq!(&memory.data(&store)[70_000..70_004], b"data");
        assert_eq!(pool.statistics().lent, 1);
    }
    assert!(status_kib("VmHWM") < 400 << 10);
    // The process leaves its group before it removes it.
    if std::fs::write("/sys/fs/cgroup/memory/cgroup.procs", "0").is_ok() {
        let _ = std::fs::remove_dir(&group);
    }
}
