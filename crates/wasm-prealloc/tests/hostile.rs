//! Inputs that are made to take much time, memory or stack, and inputs at the limits of engines.
//! They are large enough that work in proportion to the square of their size would take minutes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::num::NonZero;

use wasm_encoder::{
    CodeSection, Component, ConstExpr, CustomSection, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, MemorySection, MemoryType, Module, ModuleSection,
    NameMap, NameSection, NestedComponentSection, TypeSection, ValType,
};
use wasm_prealloc::{
    Analysis, Error, Features, Growth, Limit, Options, Unsupported, Validate, inspect, rewrite,
    verify, verify_deep,
};
use wasmparser::{Validator, WasmFeatures};

/// The default options, except for those that `set` changes.
fn options(set: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    set(&mut options);
    options
}

const MEMORY: MemoryType = MemoryType {
    minimum: 1,
    maximum: None,
    memory64: false,
    shared: false,
    page_size_log2: None,
};

/// A body without its length: no locals, some code, and its end.
fn body(code: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0x00], code.as_ref(), &[0x0b]].concat()
}

/// The parts of a module that the tests vary. There is one type, of functions without parameters.
struct Parts<'p> {
    memories: usize,
    globals: usize,
    exports: usize,
    /// Bodies, each with the number of functions that have it.
    bodies: &'p [(Vec<u8>, usize)],
    named: bool,
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Self {
            memories: 1,
            globals: 0,
            exports: 0,
            bodies: &[],
            named: false,
        }
    }
}

impl Parts<'_> {
    fn module(&self) -> Vec<u8> {
        let (mut types, mut functions, mut memories) = (
            TypeSection::new(),
            FunctionSection::new(),
            MemorySection::new(),
        );
        let (mut globals, mut exports, mut code) = (
            GlobalSection::new(),
            ExportSection::new(),
            CodeSection::new(),
        );
        types.ty().function([], []);
        for _ in 0..self.memories {
            memories.memory(MEMORY);
        }
        for _ in 0..self.globals {
            let ty = GlobalType {
                val_type: ValType::I32,
                mutable: false,
                shared: false,
            };
            globals.global(ty, &ConstExpr::i32_const(0));
        }
        for number in 0..self.exports {
            exports.export(&format!("{number}"), ExportKind::Memory, 0);
        }
        let mut names = NameMap::new();
        for (body, count) in self.bodies {
            for _ in 0..*count {
                names.append(functions.len(), &format!("f{}", functions.len()));
                functions.function(0);
                code.raw(body);
            }
        }
        let mut module = Module::new();
        module.section(&types).section(&functions);
        module.section(&memories).section(&globals);
        module.section(&exports).section(&code);
        if self.named {
            let mut section = NameSection::new();
            section.functions(&names);
            module.section(&section);
        }
        module.finish()
    }
}

/// A module with one body.
fn one_function(body: Vec<u8>) -> Vec<u8> {
    Parts {
        // The index of a global that is added needs two bytes, and `memory.size` has one.
        globals: 200,
        bodies: &[(body, 1)],
        ..Parts::default()
    }
    .module()
}

/// Rewrites a module, and validates the result. A second rewrite must not change it.
fn rewritten(module: &[u8]) -> Vec<u8> {
    let rewritten = rewrite(module, &Options::default()).unwrap();
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(&rewritten.wasm)
        .unwrap();
    let again = rewrite(&rewritten.wasm, &Options::default()).unwrap();
    assert!(again.wasm == rewritten.wasm);
    inspect(module).unwrap();
    rewritten.wasm.into_owned()
}

const SIZE: [u8; 3] = [0x3f, 0x00, 0x1a];
const SLACK: [u8; 6] = [0x41, 0x01, 0x41, 0x00, 0x47, 0x1a];

#[test]
fn many_sites_take_slack_between_them_and_before_them() {
    const SITES: usize = 200_000;
    let between = [&[0x3f, 0x00], &SLACK[2..]].concat().repeat(SITES);
    let before = [SLACK.repeat(SITES), SIZE.repeat(SITES)].concat();
    for code in [between, before] {
        let module = one_function(body(code));
        let report = rewrite(&module, &Options::default()).unwrap().report;
        assert_eq!(report.code_offsets[0].nudged, [0]);
        rewritten(&module);
    }
}

#[test]
fn many_functions_move_and_keep_their_names() {
    const FUNCTIONS: usize = 100_000;
    let body = body([&SIZE[..], &[0x01; 6]].concat());
    let module = Parts {
        globals: 200,
        bodies: &[(body, FUNCTIONS)],
        named: true,
        ..Parts::default()
    }
    .module();
    let output = rewritten(&module);
    let text = b"\x10f99999.relocated";
    assert!(output.windows(text.len()).any(|bytes| bytes == text));
    let report = rewrite(&module, &Options::default()).unwrap().report;
    assert_eq!(report.code_offsets[0].relocated.len(), FUNCTIONS);
}

#[test]
fn many_small_functions_and_many_sections_are_rewritten() {
    let grow = body([0x41, 0x01, 0x40, 0x00, 0x1a]);
    let mut module = Parts {
        bodies: &[(grow, 500_000)],
        ..Parts::default()
    }
    .module();
    for _ in 0..500_000 {
        let section = CustomSection {
            name: "x".into(),
            data: (&[]).into(),
        };
        let mut bytes = Vec::new();
        wasm_encoder::Section::append_to(&section, &mut bytes);
        module.extend(bytes);
    }
    rewritten(&module);
}

/// A component within a component, and so on, with a core module that grows its memory in the
/// innermost.
fn nested(depth: usize) -> Vec<u8> {
    let mut function = Function::new([]);
    function
        .instructions()
        .i32_const(1)
        .memory_grow(0)
        .drop()
        .end();
    let (mut types, mut functions, mut memories, mut code) = (
        TypeSection::new(),
        FunctionSection::new(),
        MemorySection::new(),
        CodeSection::new(),
    );
    types.ty().function([], []);
    functions.function(0);
    memories.memory(MEMORY);
    code.function(&function);
    let mut module = Module::new();
    module.section(&types).section(&functions);
    module.section(&memories).section(&code);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    for _ in 1..depth {
        let mut outer = Component::new();
        outer.section(&NestedComponentSection(&component));
        component = outer;
    }
    component.finish()
}

#[test]
fn deep_components_do_not_overflow_the_stack() {
    // Validation counts modules and components, and accepts 1,000.
    let deep = nested(998);
    let small_stack = std::thread::Builder::new().stack_size(256 << 10);
    let output = small_stack.spawn(move || rewritten(&deep)).unwrap();
    verify(&output.join().unwrap(), 65_536).unwrap();
    for depth in [1_001, 20_000] {
        let error = rewrite(&nested(depth), &Options::default()).unwrap_err();
        assert!(!error.is_refusal(), "{error}");
    }
}

#[test]
fn more_core_modules_than_validation_accepts_are_invalid() {
    let with = |modules| {
        let mut component = Component::new();
        for _ in 0..modules {
            component.section(&ModuleSection(&Module::new()));
        }
        component.finish()
    };
    // The component itself counts as one.
    inspect(&with(999)).unwrap();
    for modules in [1_000, 100_000] {
        let error = Analysis::new(&with(modules)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("count exceeds limit of 1000"), "{text}");
    }
}

#[test]
fn more_memories_than_engines_accept_are_invalid() {
    let with = |memories| Parts {
        memories,
        ..Parts::default()
    };
    rewritten(&with(100).module());
    for memories in [101, 1_000_000] {
        let module = with(memories).module();
        let errors = [
            Analysis::new(&module).map(drop).unwrap_err(),
            rewrite(&module, &Options::default()).map(drop).unwrap_err(),
            inspect(&module).map(drop).unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(
                text.contains("memories count exceeds limit of 100"),
                "{text}"
            );
        }
        assert!(verify(&module, 65_536).is_err());
        assert!(verify_deep(&module, 65_536).is_err());
    }
}

/// Checks that a module is refused for a limit, and that the remedy works.
fn is_limited(module: &[u8], refused: &Options, what: &Limit, remedied: &Options) {
    for validate in [Validate::Full, Validate::Changed] {
        let mut refused = refused.clone();
        refused.validate = validate;
        match rewrite(module, &refused) {
            Err(Error::LimitExceeded {
                what: found,
                count,
                most,
                ..
            }) => {
                assert_eq!(found, *what);
                assert!(count > most);
            }
            other => panic!("{:?}", other.map(|rewritten| rewritten.report)),
        }
    }
    rewrite(module, remedied).unwrap();
}

#[test]
fn additions_beyond_a_limit_are_refused_by_name() {
    const MAX: usize = 1_000_000;
    let keep = options(|options| options.growth = Growth::Keep);
    let grow = body([0x41, 0x01, 0x40, 0x00, 0x1a]);
    let functions = Parts {
        bodies: &[(grow.clone(), 1), (body([]), MAX - 1)],
        ..Parts::default()
    };
    let default = Options::default();
    is_limited(&functions.module(), &default, &Limit::Functions, &keep);
    let globals = Parts {
        globals: MAX,
        bodies: &[(grow.clone(), 1)],
        ..Parts::default()
    };
    is_limited(&globals.module(), &default, &Limit::Globals, &keep);
    // The module's type counts as an item too, and the sum must be below the limit.
    let exports = Parts {
        exports: MAX - 2,
        ..Parts::default()
    };
    let commit = options(|options| options.export_commit = Some("commit".to_owned()));
    is_limited(&exports.module(), &commit, &Limit::TypeSize, &default);
    let long = options(|options| options.export_commit = Some("n".repeat(100_001)));
    is_limited(
        &Parts::default().module(),
        &long,
        &Limit::ExportName,
        &default,
    );
    // A module with one function too many is invalid, also if only changed parts are validated.
    let functions = Parts {
        bodies: &[(grow, 1), (body([]), MAX)],
        ..Parts::default()
    };
    let changed = options(|options| options.validate = Validate::Changed);
    for options in [default, changed] {
        let error = rewrite(&functions.module(), &options).unwrap_err();
        assert_eq!(error.kind(), "invalid", "{error}");
    }
}

#[test]
fn a_function_that_would_become_too_long_is_refused_by_name() {
    const MAX: usize = 7_654_321;
    let longest = body([&SIZE[..], &vec![0x01; MAX - 5]].concat());
    let refused = Limit::FunctionBody { function: 0 };
    let keep = options(|options| options.growth = Growth::Keep);
    is_limited(
        &one_function(longest.clone()),
        &Options::default(),
        &refused,
        &keep,
    );
    let shorter = [&longest[..MAX - 2], &[0x0b]].concat();
    rewritten(&one_function(shorter));
}

#[test]
fn a_shared_function_that_grows_a_memory_is_refused_by_name() {
    let module = wat::parse_str(
        "(module (type (shared (func (param i32) (result i32)))) (memory 1 10)
           (func (type 0) (memory.grow (local.get 0))))",
    )
    .unwrap();
    let all = options(|options| options.features = Features::All);
    match rewrite(&module, &all) {
        Err(Error::Unsupported { what, .. }) => {
            assert_eq!(what, Unsupported::SharedFunction { function: 0 });
        }
        other => panic!("{other:?}"),
    }
    let keep = options(|options| {
        options.features = Features::All;
        options.growth = Growth::Keep;
    });
    rewrite(&module, &keep).unwrap();
}

#[test]
fn unstable_proposals_need_all_features() {
    let paged = "(module (memory 1 1 (pagesize 1)))";
    let legacy = "(module (memory 1 9) (func try catch_all end))";
    let invalid = "(module (memory 1 9 (pagesize 1)) (func i32.const 0))";
    let stable_set = options(|options| options.pages = 20);
    let all = options(|options| {
        options.features = Features::All;
        options.pages = 20;
    });
    for (text, stable, with_all) in [
        (paged, Err("unstable-feature"), Ok(())),
        (legacy, Ok(()), Ok(())),
        (invalid, Err("invalid"), Err("invalid")),
    ] {
        let module = wat::parse_str(text).unwrap();
        let outcome = |set: &Options| match rewrite(&module, set) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(outcome(&stable_set), stable, "{text}");
        assert_eq!(outcome(&all), with_all, "{text}");
        let inspected = Analysis::new(&module).unwrap().inspect_with(&all);
        assert_eq!(inspected.map(drop).map_err(|error| error.kind()), with_all);
    }
}

/// The first error in the order of the bytes is reported, by any number of threads.
#[test]
fn the_number_of_threads_changes_no_result() {
    let good = body([&SIZE[..], &vec![0x01; 5_000]].concat());
    let bad = body([0x3f, 0x00]);
    let module = |bodies: &[(Vec<u8>, usize)]| {
        let parts = Parts {
            bodies,
            ..Parts::default()
        };
        parts.module()
    };
    let valid = module(&[(good.clone(), 500)]);
    let invalid = module(&[(good.clone(), 400), (bad.clone(), 1), (good, 100), (bad, 1)]);
    let outcomes = [1, 2, 3, 64].map(|threads| {
        let options = options(|options| options.threads = NonZero::new(threads));
        let output = rewrite(&valid, &options).unwrap().wasm.into_owned();
        (output, rewrite(&invalid, &options).unwrap_err())
    });
    for outcome in &outcomes {
        assert!(*outcome == outcomes[0]);
    }
    assert_eq!(outcomes[0].1.kind(), "invalid");
}
