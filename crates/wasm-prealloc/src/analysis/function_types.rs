//! Function types: the ones that a rewrite can use again, and the parameters of each function.

use wasmparser::{
    CompositeInnerType, FuncType, FunctionSectionReader, SubType, TypeSectionReader, ValType,
};

use super::module_info::ModuleInfo;
use super::sections::id;

/// The content of the type and function sections.
#[derive(Debug, Default)]
pub(crate) struct FunctionTypes {
    types: Vec<SubType>,
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
        if let Some(section) = info.section(id::TYPE) {
            for group in TypeSectionReader::new(section.reader(info.wasm))? {
                types.types.extend(group?.into_types());
            }
        }
        Ok(types)
    }

    /// The index of the first function type with exactly these parameters and results that threads
    /// do not share.
    pub(crate) fn find(&self, params: &[ValType], results: &[ValType]) -> Option<u32> {
        let found = self.types.iter().position(|ty| {
            let ty = function_type(ty).filter(|_| !ty.composite_type.shared);
            ty.is_some_and(|ty| ty.params() == params && ty.results() == results)
        });
        found.map(|index| index as u32)
    }

    /// The number of types in the index space. A recursion group counts once in its section and
    /// defines several types.
    pub(crate) fn count(&self) -> u32 {
        self.types.len() as u32
    }

    /// The type index and the number of parameters of a function that the module defines.
    pub(crate) fn of_function(&self, defined: u32) -> Option<(u32, u32)> {
        let ty = *self.functions.get(defined as usize)?;
        let params = function_type(self.types.get(ty as usize)?)?.params();
        Some((ty, params.len() as u32))
    }
}

fn function_type(ty: &SubType) -> Option<&FuncType> {
    match &ty.composite_type.inner {
        CompositeInnerType::Func(ty) => Some(ty),
        _ => None,
    }
}
