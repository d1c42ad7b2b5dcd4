//! The ways in which hosts commit memory without this crate, and the reason why each does not work.
//! `docs/migration.md` names these tests. That memory which is only reserved ends in a kill is a cell
//! of the list `memory`.

use std::os::unix::process::ExitStatusExt as _;

use wasm_prealloc_host::resident_bytes;
use wasm_prealloc_tests::chain::Block;
use wasm_prealloc_tests::{INDEXER, MemoryGroup, memory_lock, skipped};
use wasmtime::{Caller, Config, Engine, Linker, Memory, MemoryType, Module, Store, Trap};

const PAGES: u64 = 1024;
const PAGE_BYTES: usize = 65_536;
const BYTES: u64 = PAGES << 16;

/// An engine as indexers configure it: memory is reserved at its largest size, and copy-on-write is
/// off.
fn usual_engine() -> Engine {
    let mut config = Config::new();
    config.memory_reservation(4 << 30).memory_init_cow(false);
    Engine::new(&config).unwrap()
}

/// Makes a memory of 64 MiB as an instance has it.
fn new_memory(engine: &Engine) -> (Store<()>, Memory) {
    let mut store = Store::new(engine, ());
    let ty = MemoryType::new(PAGES as u32, Some(PAGES as u32));
    let memory = Memory::new(&mut store, ty).unwrap();
    (store, memory)
}

/// The kernel commits by its own pages of 4 KiB, and a wasm page has sixteen of them.
#[test]
fn one_write_in_each_wasm_page_commits_a_sixteenth() {
    let huge = "/sys/kernel/mm/transparent_hugepage/enabled";
    if std::fs::read_to_string(huge).is_ok_and(|modes| modes.contains("[always]")) {
        return skipped("a write commits 2 MiB here: transparent huge pages are always used");
    }
    let (mut store, memory) = new_memory(&usual_engine());
    let data = memory.data_mut(&mut store);
    for page in data.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    assert_eq!(resident_bytes(data).unwrap(), BYTES / 16);
}

/// Writing everything commits everything, but only of the instance that is written to.
#[test]
fn memory_that_was_written_goes_with_its_instance() {
    let engine = usual_engine();
    let (mut store, memory) = new_memory(&engine);
    let data = memory.data_mut(&mut store);
    data.fill(0x5a);
    data.fill(0);
    assert_eq!(resident_bytes(data).unwrap(), BYTES);
    drop(store);
    // The next block.
    let (store, memory) = new_memory(&engine);
    assert_eq!(resident_bytes(memory.data(&store)).unwrap(), 0);
}

/// A write cannot be refused, so the kernel kills the process that writes more than a limit allows.
#[test]
fn writing_a_pattern_and_zeros_is_killed_instead_of_refused() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(BYTES / 2) else {
        return;
    };
    let run = |arguments: &[&str]| {
        let mut host = group.command(wasm_prealloc_tests::commit().unwrap());
        host.args(["--pages", &PAGES.to_string()]).args(arguments);
        host.output().unwrap()
    };
    let written = run(&["--by-writing"]);
    assert_eq!(written.status.signal(), Some(9), "{written:?}");
    assert_eq!(group.oom_kills().unwrap(), 1);

    let secured = run(&[]);
    let stderr = String::from_utf8_lossy(&secured.stderr);
    assert_eq!(secured.status.code(), Some(1), "{stderr}");
    let file = group.limit_file().display().to_string();
    assert!(stderr.contains(&file), "{file} is missing: {stderr}");
    assert_eq!(group.oom_kills().unwrap(), 1);
}

/// Runs an unchanged Rust guest on a block of 1 MiB. The host first grows its memory to `pages`.
fn run_grown_to(pages: u64) -> Result<(), wasmtime::Error> {
    let engine = usual_engine();
    let module = Module::from_file(&engine, &INDEXER.natural.memory_stress).unwrap();
    let block = Block::new(1, 1);
    let numbers = [0, block.mib_each, block.allocations];
    let input: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let length = input.len() as i32;
    let mut linker = Linker::new(&engine);
    let len = linker.func_wrap("env", "__host_len", move || length);
    len.unwrap();
    let load = linker.func_wrap(
        "env",
        "__load_input",
        move |mut caller: Caller<'_, ()>, at: u32| {
            let memory = caller.get_export("memory").and_then(|m| m.into_memory());
            let written = memory.unwrap().write(&mut caller, at as usize, &input);
            written.unwrap();
        },
    );
    load.unwrap();
    let mut store = Store::new(&engine, ());
    let others = linker.define_unknown_imports_as_default_values(&mut store, &module);
    others.unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    if let Some(delta) = pages.checked_sub(memory.size(&store)) {
        memory.grow(&mut store, delta).unwrap();
    }
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start");
    start.unwrap().call(&mut store, ())
}

/// The allocator of a Rust guest takes its heap from `memory.grow`, which fails from then on.
#[test]
fn a_rust_guest_whose_memory_the_host_grew_traps_in_its_first_allocation() {
    run_grown_to(0).unwrap();
    // There is room for one block of the heap, and the guest runs.
    run_grown_to(65_000).unwrap();
    let error = run_grown_to(65_536).unwrap_err();
    let trap = error.downcast_ref::<Trap>();
    assert_eq!(trap, Some(&Trap::UnreachableCodeReached), "{error:?}");
}
