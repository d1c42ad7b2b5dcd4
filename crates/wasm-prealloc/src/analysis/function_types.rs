//! Function types: the ones that a rewrite can use again, and the parameters of each function.

use std::collections::HashMap;

use wasmparser::{CompositeInnerType, FunctionSectionReader, TypeSectionReader, ValType};

use super::module_info::ModuleInfo;
use super::sections::id;

/// Parameters and results.
type Signature = (Box<[ValType]>, Box<[ValType]>);

/// The content of the type and function sections.
#[derive(Debug, Default)]
pub(crate) struct FunctionTypes {
    /// The number of parameters of each type; `None` for a type that is not a function type.
    params: Vec<Option<u32>>,
    /// The first unshared function type of each signature.
    signatures: HashMap<Signature, u32>,
    /// The type index of each function that the module defines.
    functions: Vec<u32>,
}

impl FunctionTypes {
    pub(crate) fn read(info: &ModuleInfo<'_>) -> wasmparser::Result<Self> {
        let mut types = Self::default();
        if let Some(section) = info.section(id::FUNCTION) {
            let functions = FunctionSectionReader::new(section.reader(info.wasm))?;
            types.functions = functions.into_iter().collect::<Result<_, _>>()?;
        }
        let Some(section) = info.section(id::TYPE) else {
            return Ok(types);
        };
        for group in TypeSectionReader::new(section.reader(info.wasm))? {
            for ty in group?.types() {
                let composite = &ty.composite_type;
                let CompositeInnerType::Func(func) = &composite.inner else {
                    types.params.push(None);
                    continue;
                };
                if !composite.shared {
                    let signature = (func.params().into(), func.results().into());
                    let index = types.params.len() as u32;
                    types.signatures.entry(signature).or_insert(index);
                }
                types.params.push(Some(func.params().len() as u32));
            }
        }
        Ok(types)
    }

    /// The index of a function type with exactly these parameters and results.
    pub(crate) fn find(&self, params: &[ValType], results: &[ValType]) -> Option<u32> {
        let signature = (params.into(), results.into());
        self.signatures.get(&signature).copied()
    }

    /// The number of types in the index space. A recursion group counts once in its section and
    /// defines several types.
    pub(crate) fn count(&self) -> u32 {
        self.params.len() as u32
    }

    /// The type index and the number of parameters of a function that the module defines.
    pub(crate) fn of_function(&self, defined: u32) -> Option<(u32, u32)> {
        let ty = *self.functions.get(defined as usize)?;
        let params = (*self.params.get(ty as usize)?)?;
        Some((ty, params))
    }
}
