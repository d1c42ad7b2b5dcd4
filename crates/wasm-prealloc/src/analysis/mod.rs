//! Reads an input, each part once and on first use. `verify`, `inspect` and `rewrite` work on what
//! is read here, and nothing here depends on them.

pub(crate) mod component;
pub(crate) mod data;
pub(crate) mod format;
pub(crate) mod function_types;
pub(crate) mod module_info;
pub(crate) mod provenance;
pub(crate) mod scan;
pub(crate) mod sections;
pub(crate) mod site;
pub(crate) mod wiring;

use std::sync::OnceLock;

use crate::error::Error;
use crate::limits::{Memory, MemoryId};
use component::Nesting;
use data::{DataSegment, data_segments};
use function_types::FunctionTypes;
use module_info::ModuleInfo;
use provenance::Provenance;
use scan::growth_sites;
use site::{Bodies, FirstSites, Sites};
use wiring::Wiring;

/// A core module or component whose structure has been read.
///
/// The functions [`verify`](crate::verify()), [`inspect`](crate::inspect()) and
/// [`rewrite`](crate::rewrite()) each read their input. To use several of them on one input, make an
/// `Analysis`: it reads the bytes once, and its methods return the same results.
///
/// ```
/// use wasm_prealloc::{Analysis, Options};
///
/// let module = wat::parse_str(
///     "(module (memory 2 100) (func (result i32) (memory.grow (i32.const 1))))",
/// )?;
/// let analysis = Analysis::new(&module)?;
/// let inspection = analysis.inspect()?;
/// assert_eq!(inspection.memories().next().map(|memory| memory.sites.grow), Some(1));
/// assert!(analysis.verify(65_536).is_err());
/// let rewritten = analysis.rewrite(&Options::default())?;
/// assert!(Analysis::new(&rewritten.wasm)?.verify(65_536).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Analysis<'a> {
    pub(crate) wasm: &'a [u8],
    pub(crate) nesting: Nesting,
    /// The core modules, in the order of the bytes.
    pub(crate) modules: Vec<Module<'a>>,
    wiring: OnceLock<Result<Wiring, Error>>,
}

/// A core module: its structure, and its types, code and data once something needs them.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    pub(crate) info: ModuleInfo<'a>,
    pub(crate) provenance: Provenance,
    bodies: OnceLock<Result<Bodies, Error>>,
    types: OnceLock<Result<FunctionTypes, Error>>,
    data: OnceLock<Result<Vec<DataSegment>, Error>>,
}

impl<'a> Analysis<'a> {
    /// Reads the structure of a core module, or of all core modules of a component. Code and data
    /// are read when a method first needs them.
    ///
    /// # Errors
    /// Returns an error if the bytes are not WebAssembly or are malformed.
    pub fn new(wasm: &'a [u8]) -> Result<Self, Error> {
        let nesting = Nesting::read(wasm)?;
        let modules = nesting.modules().map(|(index, range)| {
            let info = ModuleInfo::read(wasm, range, index)?;
            Ok(Module {
                provenance: Provenance::read(&info),
                info,
                bodies: OnceLock::new(),
                types: OnceLock::new(),
                data: OnceLock::new(),
            })
        });
        Ok(Self {
            modules: modules.collect::<Result<_, Error>>()?,
            wasm,
            nesting,
            wiring: OnceLock::new(),
        })
    }

    /// The links between the memories of core modules.
    pub(crate) fn wiring(&self) -> Result<&Wiring, Error> {
        let read = || {
            let modules: Vec<_> = self.modules.iter().map(|module| &module.info).collect();
            Wiring::read(self.wasm, &self.nesting, &modules)
        };
        let wiring = self.wiring.get_or_init(read);
        wiring.as_ref().map_err(Error::clone)
    }

    /// Checks that the input has a memory.
    ///
    /// # Errors
    /// Returns [`Error::NoSuchMemory`] if it does not.
    pub fn check_has(&self, memory: MemoryId) -> Result<(), Error> {
        match self.memories().any(|other| other.id == memory) {
            true => Ok(()),
            false => Err(Error::NoSuchMemory { memory }),
        }
    }

    /// The memories of all core modules, in the order of the bytes.
    pub fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.modules
            .iter()
            .flat_map(|module| module.info.memories())
    }
}

impl Module<'_> {
    /// The function bodies that grow or measure a memory.
    pub(crate) fn bodies(&self) -> Result<&Bodies, Error> {
        let bodies = self.bodies.get_or_init(|| growth_sites(&self.info));
        bodies.as_ref().map_err(Error::clone)
    }

    /// Counts the instructions that grow and measure each memory.
    pub(crate) fn count_sites(&self) -> Result<Vec<(Sites, FirstSites)>, Error> {
        Ok(self.bodies()?.count_sites(self.info.memories.len()))
    }

    pub(crate) fn types(&self) -> Result<&FunctionTypes, Error> {
        let read = || FunctionTypes::read(&self.info).map_err(Error::malformed);
        self.types.get_or_init(read).as_ref().map_err(Error::clone)
    }

    /// The data segments, in order.
    pub(crate) fn data(&self) -> Result<&[DataSegment], Error> {
        let read = || data_segments(&self.info).map_err(Error::malformed);
        let data = self.data.get_or_init(read);
        data.as_deref().map_err(Error::clone)
    }
}
