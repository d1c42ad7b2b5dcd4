//! A pool that could not be secured is secured again.
//!
//! The test lowers a limit of its process, so it has its own binary.
#![cfg(all(target_os = "linux", feature = "wasmtime"))]
#![allow(unsafe_code, reason = "tests of system calls")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{one_at_a_time, status_kib};
use wasm_prealloc_host::{
    Error, InstantiateError, LendError, Limit, LockOptions, MemoryPool, SecureError, Stage,
    WasmtimePool,
};
use wasmtime::{Config, Linker, Module, Store};

/// Sets the soft limit on the address space, and returns the previous one.
fn limit_address_space(bytes: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the calls read and write the structure alone.
    let outcomes = unsafe {
        let read = libc::getrlimit(libc::RLIMIT_AS, &raw mut limit);
        let previous = limit.rlim_cur;
        limit.rlim_cur = bytes;
        let set = libc::setrlimit(libc::RLIMIT_AS, &raw const limit);
        limit.rlim_cur = previous;
        [read, set]
    };
    assert_eq!(outcomes, [0, 0], "{}", std::io::Error::last_os_error());
    limit.rlim_cur
}

#[test]
fn a_prepared_pool_is_secured_after_a_failure_and_keeps_its_engines_and_modules() {
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut lock = LockOptions::default();
    lock.path = folder.path().join("lock");
    lock.timeout = Duration::from_millis(50);
    let path = lock.path.clone();
    let stages = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&stages);
    let prepared = MemoryPool::builder()
        .pages(2048)
        .lock(lock)
        .on_progress(move |progress| seen.lock().unwrap().push(progress.stage))
        .prepare();
    let engine = prepared.engine(&mut Config::new()).unwrap();
    let text = r#"(module (memory 2048 2048)
        (func (export "answer") (result i32)
            (i32.store (i32.const 8) (i32.const 42)) (i32.load (i32.const 8))))"#;
    let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
    prepared.verify(&module).unwrap();

    let held = std::fs::File::create(path).unwrap();
    held.lock().unwrap();
    let refused = prepared.secure();
    assert!(
        matches!(refused, Err(SecureError::LockTimeout { .. })),
        "{refused:?}"
    );
    drop(held);
    assert_eq!(stages.lock().unwrap().first(), Some(&Stage::WaitingForLock));

    // A slot reserves more than 4 GiB.
    let previous = limit_address_space((status_kib("VmSize") << 10) + (1 << 30));
    let refused = prepared.secure();
    limit_address_space(previous);
    match refused {
        Err(SecureError::Shortfall(shortfall)) => {
            assert_eq!(shortfall.limit, Limit::AddressSpace);
        }
        other => panic!("{other:?}"),
    }
    let linker = Linker::new(&engine);
    let mut store = Store::new(&engine, ());
    let before = prepared.memory_pool().clone();
    match before.instantiate(&linker, &mut store, &module) {
        Err(InstantiateError::Memory(Error::Lend(LendError::NotSecuredYet))) => {}
        other => panic!("{other:?}"),
    }

    let pool = prepared.secure().unwrap();
    assert_eq!(stages.lock().unwrap().last(), Some(&Stage::Committing));
    assert!(pool.is_same(&before) && pool.is_same(&prepared.secure().unwrap()));
    let instance = pool.instantiate(&linker, &mut store, &module).unwrap();
    let answer = instance.get_typed_func::<(), i32>(&mut store, "answer");
    assert_eq!(answer.unwrap().call(&mut store, ()).unwrap(), 42);
}

/// Calls on several threads at the same time secure the pool once.
#[test]
fn calls_at_the_same_time_secure_once() {
    let _turn = one_at_a_time();
    let prepared = MemoryPool::builder().pages(1).prepare();
    let pools: Vec<MemoryPool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| prepared.secure())).collect();
        let pools = threads.into_iter().map(|thread| thread.join().unwrap());
        pools.map(Result::unwrap).collect()
    });
    assert!(pools.iter().all(|pool| pool.is_same(&pools[0])));
    assert_eq!(pools[0].statistics().slots, 1);
}
