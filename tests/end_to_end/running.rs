//! Runs test modules in wasmtime, in memory that is only reserved.

use wasmtime::{
    Config, Engine, Instance, Linker, Module, Store, TypedFunc, Val, WasmBacktraceDetails,
    WasmParams, WasmResults,
};

/// An instance.
pub(crate) struct Running {
    pub(crate) store: Store<()>,
    pub(crate) instance: Instance,
}

/// Returns an engine with the proposals about memories, whose backtraces name files and lines.
pub(crate) fn engine() -> Engine {
    let mut config = Config::new();
    config
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_custom_page_sizes(true)
        .wasm_memory64(true)
        .wasm_multi_memory(true);
    Engine::new(&config).unwrap()
}

impl Running {
    /// Instantiates a module. Imported functions return zeros.
    pub(crate) fn new(wasm: &[u8]) -> Self {
        let engine = engine();
        let module = Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let defined = linker.define_unknown_imports_as_default_values(&mut store, &module);
        defined.unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        Self { store, instance }
    }

    /// Returns the contents of an exported memory.
    pub(crate) fn memory(&mut self, name: &str) -> &[u8] {
        let memory = self.instance.get_memory(&mut self.store, name);
        memory.unwrap().data(&self.store)
    }

    /// Calls an export. A trap is an error.
    pub(crate) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
        params: P,
    ) -> Result<R, wasmtime::Error> {
        let function: Result<TypedFunc<P, R>, _> =
            self.instance.get_typed_func(&mut self.store, name);
        function.unwrap().call(&mut self.store, params)
    }

    /// Calls an export that takes and returns an i32, both as unsigned numbers.
    pub(crate) fn call1(&mut self, name: &str, param: u32) -> Result<u32, wasmtime::Error> {
        self.call::<i32, i32>(name, param.cast_signed())
            .map(i32::cast_unsigned)
    }

    /// Calls an export with arguments of any type. Returns the results, or the trap, as text.
    pub(crate) fn call_as_text(&mut self, name: &str, args: &[Val]) -> String {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        match function.call(&mut self.store, args, &mut results) {
            Ok(()) => format!("{results:?}"),
            Err(error) => format!("{:?}", error.downcast_ref::<wasmtime::Trap>()),
        }
    }
}
