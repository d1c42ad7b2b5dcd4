//! Validates modules, whole or in those parts that a rewrite has changed.

use wasmparser::{FuncValidatorAllocations, Parser, ValidPayload, Validator, WasmFeatures};

/// Whatever can be read can be rewritten, so every proposal is allowed.
fn validator() -> Validator {
    Validator::new_with_features(WasmFeatures::all())
}

pub(crate) fn validate_all(wasm: &[u8]) -> wasmparser::Result<()> {
    validator().validate_all(wasm).map(drop)
}

/// Validates everything but the bodies that are as they were: of the first `known` functions that
/// the module defines, only those in `touched` (ascending) are looked into.
pub(crate) fn validate_changed(wasm: &[u8], known: u32, touched: &[u32]) -> wasmparser::Result<()> {
    let mut validator = validator();
    let mut allocations = FuncValidatorAllocations::default();
    let mut touched = touched.iter().copied().peekable();
    let mut defined = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            let changed = touched.next_if_eq(&defined).is_some() || defined >= known;
            defined += 1;
            if changed {
                let mut function = function.into_validator(allocations);
                function.validate(&body)?;
                allocations = function.into_allocations();
            }
        }
    }
    Ok(())
}
