//! Describes a module's memories, the code that grows them, and the effect of a rewrite.

use crate::analysis::data::DataSegment;
use crate::analysis::provenance::Declared;
use crate::analysis::site::Sites;
use crate::analysis::{Analysis, Module};
use crate::error::Error;
use crate::growth::GrowthHandling;
use crate::limits::Memory;
use crate::rewrite::decide::Decisions;
use crate::rewrite::options::Options;
use crate::rewrite::plan::Plan;
use crate::rewrite::report::{MemoryReport, Report};

/// The memories of an input, and the facts that concern them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Inspection {
    /// Length of the input in bytes.
    pub bytes: usize,
    /// The core modules: the input itself, or those that a component contains.
    pub modules: Vec<ModuleInspection>,
    /// The error with which a rewrite with the same options would refuse the input; `None` if it
    /// would succeed. Serializes without the remedy.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize_refusal"))]
    pub refusal: Option<Error>,
}

impl Inspection {
    /// The memories of all core modules.
    pub fn memories(&self) -> impl Iterator<Item = &MemoryInspection> {
        self.modules.iter().flat_map(|module| &module.memories)
    }

    /// Returns the report of a rewrite that changes nothing.
    #[must_use]
    pub fn unchanged(&self) -> Report {
        let memories = self.memories().map(|inspected| MemoryReport {
            before: inspected.memory.clone(),
            after: inspected.memory.clone(),
            growth: match inspected.sites {
                Sites { size: 0, grow: 0 } => GrowthHandling::None,
                _ => GrowthHandling::Kept,
            },
            sites: inspected.sites,
        });
        Report {
            bytes_before: self.bytes,
            bytes_after: self.bytes,
            memories: memories.collect(),
            code_offsets: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// One core module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ModuleInspection {
    /// In a component, the module's position among the core modules, counted from 0 in the order of
    /// the bytes.
    pub module: Option<u32>,
    /// Length of the module in bytes.
    pub bytes: usize,
    /// One entry for each memory, in index order.
    pub memories: Vec<MemoryInspection>,
    /// The number of bytes by which the content of the code section moved within the module when it
    /// was rewritten; `None` if it was not, or if that is unknown.
    pub code_section_moved: Option<i64>,
    /// The addresses that the linker gives.
    pub landmarks: Landmarks,
    /// The data segments, in order.
    pub data: Vec<DataSegment>,
}

/// One memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryInspection {
    /// The memory as the module declares it.
    pub memory: Memory,
    /// The limits before the module was rewritten, as the rewrite recorded them.
    pub declared_before: Option<Declared>,
    /// The handling of its growth by the rewrite that made the module, as that rewrite recorded it.
    pub growth_before: Option<GrowthHandling>,
    /// The number of instructions that grow and measure it.
    pub sites: Sites,
    /// Indices of the functions with such instructions, ascending.
    pub functions: Vec<u32>,
    /// The handling of those instructions by a rewrite with the same options; `None` if it would
    /// refuse the input.
    pub rewrite: Option<GrowthHandling>,
}

/// Addresses that linkers export, or name, as constant globals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Landmarks {
    /// `__data_end`: the first byte after the static data.
    pub data_end: Option<u64>,
    /// `__heap_base`: the first byte that an allocator may use.
    pub heap_base: Option<u64>,
    /// `__heap_end`: the first byte after the initial memory that the linker declared; 0 for 4 GiB.
    pub heap_end: Option<u64>,
}

/// Describes a core module, or all core modules of a component. The input is validated and not
/// changed. [`Analysis::inspect_with`] takes options.
///
/// # Errors
/// Returns an error if the bytes are not WebAssembly, are malformed, or are invalid.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, Error> {
    Analysis::new(wasm)?.inspect()
}

impl Analysis<'_> {
    /// Describes the input, like [`inspect()`].
    ///
    /// # Errors
    /// Returns the same errors as [`inspect()`].
    pub fn inspect(&self) -> Result<Inspection, Error> {
        self.inspect_with(&Options::default())
    }

    /// Describes the input, and the effect of a rewrite with some options. The input is validated as
    /// a rewrite with these options would validate it.
    ///
    /// # Errors
    /// Returns an error if the input is malformed or invalid.
    ///
    /// ```
    /// use wasm_prealloc::{Analysis, Growth, Options};
    ///
    /// let module = wat::parse_str("(module (memory 2) (func (result i32) memory.size))")?;
    /// let mut options = Options::default();
    /// options.growth = Growth::Keep;
    /// let inspection = Analysis::new(&module)?.inspect_with(&options)?;
    /// let rewrite = inspection.modules[0].memories[0].rewrite.as_ref();
    /// assert_eq!(rewrite.map(ToString::to_string).as_deref(), Some("kept"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inspect_with(&self, options: &Options) -> Result<Inspection, Error> {
        self.validate(options)?;
        let plan = Plan::new(self, options);
        let modules = self.modules.iter().enumerate().map(|(position, module)| {
            let decisions = plan.as_ref().ok().map(|plan| &plan.decisions[position]);
            inspect_module(module, decisions)
        });
        Ok(Inspection {
            bytes: self.wasm.len(),
            modules: modules.collect::<Result<_, _>>()?,
            refusal: plan.as_ref().err().cloned(),
        })
    }
}

#[cfg(feature = "serde")]
fn serialize_refusal<S: serde::Serializer>(
    refusal: &Option<Error>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = refusal.as_ref().map(Error::problem);
    serde::Serialize::serialize(&text, serializer)
}

fn inspect_module(
    module: &Module<'_>,
    decisions: Option<&Decisions<'_>>,
) -> Result<ModuleInspection, Error> {
    let info = &module.info;
    // The indices of the functions with sites, by memory.
    let mut functions = vec![Vec::new(); info.memories.len()];
    for body in module.bodies()?.iter() {
        let function = info.imported_functions + body.defined;
        for site in body.sites {
            let functions: Option<&mut Vec<u32>> = functions.get_mut(site.memory as usize);
            if let Some(functions) = functions.filter(|f| f.last() != Some(&function)) {
                functions.push(function);
            }
        }
    }
    let sites = module.count_sites()?.into_iter().map(|(sites, _)| sites);
    let facts = sites.zip(functions).enumerate();
    let memories = info.memories().zip(facts);
    let memories = memories.map(
        |(memory, (position, (sites, functions)))| MemoryInspection {
            memory: memory.clone(),
            declared_before: module.provenance.declared(memory.id.index),
            growth_before: module.provenance.growth(memory.id.index).cloned(),
            sites,
            functions,
            rewrite: decisions.map(|decisions| decisions.memories[position].growth.clone()),
        },
    );
    Ok(ModuleInspection {
        module: info.module,
        bytes: info.range.len(),
        memories: memories.collect(),
        code_section_moved: module.provenance.code_moved(info),
        landmarks: Landmarks {
            data_end: info.landmark("__data_end")?,
            heap_base: info.landmark("__heap_base")?,
            heap_end: info.landmark("__heap_end")?,
        },
        data: module.data()?.to_vec(),
    })
}
