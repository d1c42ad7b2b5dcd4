//! Rewritten modules compared with their originals: growth, sizes and contents are the same.

use std::fmt::Write as _;

use wasm_prealloc::{EmulateFrom, Growth, Options, rewrite};

use crate::running::Running;

const PAGE: u64 = 65_536;

/// Exported functions that grow, measure, read and write the memory.
const EXPORTS: &str = r#"
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "size") (param i32) (result i32) (memory.size))
    (func (export "both") (param i32) (result i32)
      (i32.add (i32.mul (memory.grow (local.get 0)) (i32.const 1000003)) (memory.size)))
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
    (func (export "store") (param i32) (result i32)
      (i32.store8 (local.get 0) (i32.const 0xa5)) (i32.const 0))
    (data (i32.const 3) "data segment")
    (data (i32.const 65530) "\01\02\03\04\05\06\07\08")"#;

/// Returns a module with the given memory and `more` unused functions. The number of functions
/// decides whether the index of an added function fits in one byte.
fn module(memory: &str, more: usize) -> Vec<u8> {
    let mut text = format!("(module {memory} {EXPORTS}");
    for _ in 0..more {
        write!(text, "(func nop)").unwrap();
    }
    wat::parse_str(text + ")").unwrap()
}

fn rewritten(wasm: &[u8], change: impl FnOnce(&mut Options)) -> Vec<u8> {
    let mut options = Options::default();
    change(&mut options);
    rewrite(wasm, &options).unwrap().wasm.into_owned()
}

/// Returns modules with the sizes that their memories grow from and to, in pages. The numbers of
/// functions are such that replaced instructions fit in place, move code, or need a copy of the function
/// at the end.
fn shapes() -> impl Iterator<Item = (Vec<u8>, u64, u64)> {
    let memories = [
        ("(memory 2 100)", 2, 100),
        ("(memory 3 3)", 3, 3),
        ("(memory 2)", 2, 65_536),
    ];
    memories.into_iter().flat_map(|(memory, from, to)| {
        [0, 120, 200].map(move |more| (module(memory, more), from, to))
    })
}

#[test]
fn memory_grows_from_the_minimum_to_the_cap_and_not_beyond() {
    for (original, from, to) in shapes() {
        let mut before = Running::new(&original);
        let mut after = Running::new(&rewritten(&original, |_| {}));
        let mut both = |name: &str, param: u32| {
            let expected = before.call1(name, param).unwrap();
            let found = after.call1(name, param).unwrap();
            assert_eq!(found, expected, "{name}({param}), memory {from} to {to}");
            found
        };
        // One page at a time if there are few, larger steps if there are many.
        let step = ((to - from) / 400).max(1);
        let mut size = from;
        while size < to {
            let delta = step.min(to - size);
            assert_eq!(u64::from(both("grow", delta as u32)), size);
            // The first and the last new byte are zero, and can be written.
            for address in [size * PAGE, (size + delta) * PAGE - 1] {
                assert_eq!(both("load", address as u32), 0);
                both("store", address as u32);
                assert_eq!(both("load", address as u32), 0xa5);
            }
            size += delta;
            assert_eq!(u64::from(both("size", 0)), size);
        }
        for delta in [1, 2, 65_536, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            assert_eq!(both("grow", delta), u32::MAX, "growth beyond the cap");
        }
        assert_eq!(u64::from(both("grow", 0)), to);
        for (offset, byte) in (3..).zip(b"data segment") {
            assert_eq!(both("load", offset), u32::from(*byte));
        }
    }
}

/// Compares ten thousand random calls.
#[test]
fn random_calls_have_the_same_results() {
    let mut random = fastrand::Rng::with_seed(11);
    for (original, _, to) in shapes() {
        let mut before = Running::new(&original);
        let mut after = Running::new(&rewritten(&original, |_| {}));
        for _ in 0..1200 {
            let size = before.call1("size", 0).unwrap();
            let (name, param) = match random.u8(0..5) {
                0 => ("grow", random.u32(0..=2 * (to as u32 / 40 + 1))),
                1 => ("both", random.u32(0..4)),
                2 => ("size", 0),
                // Only addresses below the size: above it only the original traps.
                3 => ("store", (random.u64(0..u64::from(size) * PAGE)) as u32),
                _ => ("load", (random.u64(0..u64::from(size) * PAGE)) as u32),
            };
            let expected = before.call1(name, param).unwrap();
            let found = after.call1(name, param).unwrap();
            assert_eq!(found, expected, "{name}({param})");
        }
    }
}

#[test]
fn a_pinned_memory_starts_at_its_heap_base() {
    let memory = r#"(memory 65536 65536) (global (export "__heap_base") i32 (i32.const 70000))"#;
    let original = module(memory, 0);
    let wasm = rewritten(&original, |options| {
        options.emulate_from = EmulateFrom::HeapBase
    });
    let mut after = Running::new(&wasm);
    assert_eq!(after.call1("size", 0).unwrap(), 2);
    assert_eq!(after.call1("grow", 65_533).unwrap(), 2);
    assert_eq!(after.call1("grow", 1).unwrap(), 65_535);
    assert_eq!(after.call1("grow", 1).unwrap(), u32::MAX);
    assert_eq!(after.call1("load", 3).unwrap(), u32::from(b'd'));
}

#[test]
fn a_memory_that_the_module_only_measures_reads_as_grown() {
    let text = r#"(module (memory (export "memory") 1 65536)
        (func (export "bytes") (param i32) (result i32) (i32.shl (memory.size) (i32.const 16)))
        (func (export "store") (param i32) (result i32)
          (i32.store8 (local.get 0) (i32.const 1)) (i32.const 0)))"#;
    let mut after = Running::new(&rewritten(&wat::parse_str(text).unwrap(), |_| {}));
    let bytes = after.call1("bytes", 0).unwrap();
    assert_eq!(u64::from(bytes), 65_535 * PAGE);
    after.call1("store", bytes - 1).unwrap();
}

#[test]
fn with_keep_growth_fails() {
    let wasm = rewritten(&module("(memory 2 100)", 0), |options| {
        options.growth = Growth::Keep
    });
    let mut after = Running::new(&wasm);
    assert_eq!(after.call1("size", 0).unwrap(), 65_536);
    assert_eq!(after.call1("grow", 1).unwrap(), u32::MAX);
}

/// The documented difference: memory above the virtual size can be accessed.
#[test]
fn an_access_above_the_virtual_size_no_longer_traps() {
    let original = module("(memory 2 100)", 0);
    let address = (2 * PAGE) as u32;
    Running::new(&original).call1("load", address).unwrap_err();
    let mut after = Running::new(&rewritten(&original, |_| {}));
    assert_eq!(after.call1("load", address).unwrap(), 0);
}

#[test]
fn tail_calls_still_use_constant_stack() {
    let mut text = String::from(
        r#"(module (memory 1)
        (func $loop (export "loop") (param i32) (result i32)
          (drop (memory.grow (i32.const 0)))
          (if (i32.eqz (local.get 0)) (then (return (i32.const 7))))
          (return_call $loop (i32.sub (local.get 0) (i32.const 1))))"#,
    );
    for _ in 0..200 {
        text += "(func nop)";
    }
    let original = wat::parse_str(text + ")").unwrap();
    let rewritten = rewrite(&original, &Options::default()).unwrap();
    assert_eq!(rewritten.report.code_offsets[0].relocated, [0]);
    let mut after = Running::new(&rewritten.wasm);
    assert_eq!(after.call1("loop", 5_000_000).unwrap(), 7);
}
