//! The type index space, as far as a rewrite needs it: which functions take how many parameters.

use std::collections::HashMap;

use wasmparser::{CompositeInnerType, FunctionSectionReader, TypeSectionReader, ValType};

use crate::error::Error;
use crate::map::{Map, id};

/// Parameters and results.
type Signature = (Box<[ValType]>, Box<[ValType]>);

/// What the type and function sections say.
#[derive(Debug)]
pub(crate) struct Types {
    /// Parameters of each type; `None` where it is no function type.
    params: Vec<Option<u32>>,
    /// Plain function types by what they take and give, the first of each.
    signatures: HashMap<Signature, u32>,
    /// Type index of each function that the module defines.
    functions: Vec<u32>,
}

impl Types {
    pub(crate) fn read(map: &Map<'_>) -> Result<Self, Error> {
        let mut types = Self {
            params: Vec::new(),
            signatures: HashMap::new(),
            functions: Vec::new(),
        };
        types
            .read_sections(map)
            .map_err(|error| Error::malformed(&error))?;
        Ok(types)
    }

    fn read_sections(&mut self, map: &Map<'_>) -> wasmparser::Result<()> {
        if let Some(section) = map.section(id::FUNCTION) {
            let functions = FunctionSectionReader::new(section.reader(map.wasm))?;
            self.functions = functions.into_iter().collect::<Result<_, _>>()?;
        }
        let Some(section) = map.section(id::TYPE) else {
            return Ok(());
        };
        for group in TypeSectionReader::new(section.reader(map.wasm))? {
            for ty in group?.types() {
                let composite = &ty.composite_type;
                let CompositeInnerType::Func(func) = &composite.inner else {
                    self.params.push(None);
                    continue;
                };
                if !composite.shared {
                    let signature = (func.params().into(), func.results().into());
                    self.signatures
                        .entry(signature)
                        .or_insert(self.params.len() as u32);
                }
                self.params.push(Some(func.params().len() as u32));
            }
        }
        Ok(())
    }

    /// A type that takes and gives just that.
    pub(crate) fn find(&self, params: &[ValType], results: &[ValType]) -> Option<u32> {
        let signature = (params.into(), results.into());
        self.signatures.get(&signature).copied()
    }

    /// Types in the index space: more than the section's count where types are grouped.
    pub(crate) fn count(&self) -> u32 {
        self.params.len() as u32
    }

    /// Type index and number of parameters of a function that the module defines.
    pub(crate) fn of_function(&self, defined: u32) -> Option<(u32, u32)> {
        let ty = *self.functions.get(defined as usize)?;
        let params = (*self.params.get(ty as usize)?)?;
        Some((ty, params))
    }
}
