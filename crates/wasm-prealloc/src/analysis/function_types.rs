//! Function types: those that a rewrite can reuse, and the parameters of each function.
//! Types are not kept, because a module may hold very many large ones.

use wasmparser::{
    CompositeInnerType, ExportSectionReader, ExternalKind, FuncType, FunctionSectionReader,
    ImportSectionReader, SubType, TypeRef, TypeSectionReader, ValType,
};

use super::module_info::ModuleInfo;
use super::sections::id;

/// The content of the type and function sections.
#[derive(Debug, Default)]
pub(crate) struct FunctionTypes {
    types: Vec<Type>,
    /// The first type with each of the signatures that a rewrite may need, and its index.
    reusable: Vec<(FuncType, u32)>,
    /// The type index of each function that the module defines.
    functions: Vec<u32>,
}

/// The facts about a type that a rewrite needs.
#[derive(Clone, Copy, Debug)]
struct Type {
    /// The numbers of parameters and results; `None` if it is not a function type.
    values: Option<(u16, u16)>,
    /// True if threads share its functions.
    is_shared: bool,
}

/// A function that the module defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DefinedFunction {
    /// The index of its type.
    pub(crate) ty: u32,
    /// The number of its parameters.
    pub(crate) params: u32,
    /// True if threads share it.
    pub(crate) is_shared: bool,
}

/// The most parameters and results of a function that a rewrite adds.
const MOST_VALUES: usize = 1;

impl FunctionTypes {
    pub(crate) fn read(info: &ModuleInfo<'_>) -> wasmparser::Result<Self> {
        let mut types = Self::default();
        if let Some(section) = info.section(id::FUNCTION) {
            let functions = FunctionSectionReader::new(section.reader(info.wasm))?;
            types.functions = functions.into_iter().collect::<Result<_, _>>()?;
        }
        if let Some(section) = info.section(id::TYPE) {
            for group in TypeSectionReader::new(section.reader(info.wasm))? {
                for ty in group?.into_types() {
                    types.add(&ty);
                }
            }
        }
        Ok(types)
    }

    fn add(&mut self, ty: &SubType) {
        let is_shared = ty.composite_type.shared;
        let function = function_type(ty);
        if let Some(function) = function.filter(|ty| !is_shared && is_reusable(ty))
            && self.find(function.params(), function.results()).is_none()
        {
            self.reusable.push((function.clone(), self.count()));
        }
        self.types.push(Type {
            // The format allows 1,000 of each.
            values: function.map(|ty| (ty.params().len() as u16, ty.results().len() as u16)),
            is_shared,
        });
    }

    /// The index of the first function type with exactly these parameters and results that threads
    /// do not share. There are at most [`MOST_VALUES`] of each.
    pub(crate) fn find(&self, params: &[ValType], results: &[ValType]) -> Option<u32> {
        let mut reusable = self.reusable.iter();
        let found = reusable.find(|(ty, _)| ty.params() == params && ty.results() == results);
        found.map(|(_, index)| *index)
    }

    /// The number of types in the index space. A recursion group counts once in its section and
    /// defines several types.
    pub(crate) fn count(&self) -> u32 {
        self.types.len() as u32
    }

    /// Returns a function that the module defines.
    pub(crate) fn of_function(&self, defined: u32) -> Option<DefinedFunction> {
        let ty = *self.functions.get(defined as usize)?;
        let Type { values, is_shared } = *self.types.get(ty as usize)?;
        Some(DefinedFunction {
            ty,
            params: values?.0.into(),
            is_shared,
        })
    }

    /// The size of a module's type, as validation counts it: an item for the module, for each
    /// import and each export, and for each parameter and result of those that are functions.
    pub(crate) fn module_type_size(&self, info: &ModuleInfo<'_>) -> wasmparser::Result<u64> {
        let size = |ty: u32| {
            let values = self.types.get(ty as usize).and_then(|ty| ty.values);
            1 + values.map_or(0, |(params, results)| {
                u64::from(params) + u64::from(results)
            })
        };
        let mut imported = Vec::new();
        let mut sum = 1;
        if let Some(section) = info.section(id::IMPORT) {
            for import in ImportSectionReader::new(section.reader(info.wasm))?.into_imports() {
                sum += match import?.ty {
                    TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                        imported.push(ty);
                        size(ty)
                    }
                    TypeRef::Tag(tag) => size(tag.func_type_idx),
                    _ => 1,
                };
            }
        }
        if let Some(section) = info.section(id::EXPORT) {
            for export in ExportSectionReader::new(section.reader(info.wasm))? {
                let export = export?;
                let index = export.index as usize;
                let ty = imported.get(index).or_else(|| {
                    let defined = index.checked_sub(imported.len())?;
                    self.functions.get(defined)
                });
                sum += match (export.kind, ty) {
                    (ExternalKind::Func | ExternalKind::FuncExact, Some(ty)) => size(*ty),
                    _ => 1,
                };
            }
        }
        Ok(sum)
    }
}

fn function_type(ty: &SubType) -> Option<&FuncType> {
    match &ty.composite_type.inner {
        CompositeInnerType::Func(ty) => Some(ty),
        _ => None,
    }
}

/// Returns true if a function that a rewrite adds may have this type. There are nine such types.
fn is_reusable(ty: &FuncType) -> bool {
    let is_address = |ty: &ValType| matches!(ty, ValType::I32 | ValType::I64);
    let (params, results) = (ty.params(), ty.results());
    let all = || params.iter().chain(results).all(is_address);
    params.len() <= MOST_VALUES && results.len() <= MOST_VALUES && all()
}
