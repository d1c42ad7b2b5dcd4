//! Running test modules in wasmtime, in memory that is reserved and not secured: what is tested
//! with it is the module.

use wasmtime::{Engine, Instance, Module, Store, TypedFunc};

/// An instance of a module that imports nothing.
pub(crate) struct Running {
    pub(crate) store: Store<()>,
    pub(crate) instance: Instance,
}

impl Running {
    pub(crate) fn new(wasm: &[u8]) -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        Self { store, instance }
    }

    fn function<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
    ) -> TypedFunc<P, R> {
        self.instance.get_typed_func(&mut self.store, name).unwrap()
    }

    /// Calls an export; a trap is an error.
    pub(crate) fn call<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
        params: P,
    ) -> Result<R, wasmtime::Error> {
        let function = self.function(name);
        function.call(&mut self.store, params)
    }

    /// Calls an export that takes and gives an i32, both read as unsigned.
    pub(crate) fn call1(&mut self, name: &str, param: u32) -> Result<u32, wasmtime::Error> {
        self.call::<i32, i32>(name, param.cast_signed())
            .map(i32::cast_unsigned)
    }
}
