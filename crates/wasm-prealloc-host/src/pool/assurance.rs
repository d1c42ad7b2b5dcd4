//! The choice whether a pool's memory is secured, and the report if it is not.

use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;

use crate::error::SecureError;
use crate::name::{self, UnknownName};

/// The environment variable that chooses the [`Assurance`] of pools whose code does not.
pub const ASSURANCE_VARIABLE: &str = "WASM_PREALLOC_ASSURANCE";

/// The choice whether a pool's memory has to be secured.
///
/// A module sees the same memory sizes, refusals and growth with each of them. Without
/// [`MemoryPoolBuilder::assurance`](crate::MemoryPoolBuilder::assurance) the environment variable
/// `WASM_PREALLOC_ASSURANCE` chooses: `required`, `best-effort` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Assurance {
    /// All of the memory is secured, or the pool is not made.
    #[default]
    Required,
    /// The memory is secured if that is possible. Otherwise the reason is reported, and the pool is
    /// made as with [`Assurance::Off`].
    BestEffort,
    /// Address space is reserved, and nothing is committed: no limit is read and no lock is taken.
    /// Pages come when they are first written, and go when the memory comes back. For development
    /// and tests, for example a test suite that makes many hosts at the same time. The OOM killer
    /// can end such a host in the middle of a block.
    Off,
}

impl Assurance {
    /// Every choice.
    pub const ALL: [Assurance; 3] = [Assurance::Required, Assurance::BestEffort, Assurance::Off];

    /// Returns the name of the choice, which [`FromStr`] parses.
    pub fn as_str(self) -> &'static str {
        match self {
            Assurance::Required => "required",
            Assurance::BestEffort => "best-effort",
            Assurance::Off => "off",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Assurance {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Assurance, UnknownName> {
        name::parse(&Assurance::ALL, name)
    }
}

/// The assurance of a pool, and who chose it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) assurance: Assurance,
    by_environment: bool,
}

impl Chosen {
    /// Returns what the code chose, or else the environment.
    pub(crate) fn new(by_code: Option<Assurance>) -> Result<Chosen, SecureError> {
        let by_environment = match by_code {
            Some(_) => None,
            None => env::var_os(ASSURANCE_VARIABLE),
        };
        let Some(value) = by_environment else {
            return Ok(Chosen {
                assurance: by_code.unwrap_or_default(),
                by_environment: false,
            });
        };
        match value.to_str().map(str::parse) {
            Some(Ok(assurance)) => Ok(Chosen {
                assurance,
                by_environment: true,
            }),
            _ => Err(SecureError::Assurance {
                value: value.to_string_lossy().into_owned(),
            }),
        }
    }

    /// Reports that memory is not secured, and returns the report. `failure` is the reason, unless
    /// securing was not tried.
    pub(crate) fn report(&self, failure: Option<&SecureError>) -> String {
        let by = match self.by_environment {
            true => ASSURANCE_VARIABLE,
            false => "MemoryPoolBuilder::assurance",
        };
        let assurance = self.assurance;
        let why = failure.map_or_else(String::new, |error| format!(": {error}"));
        let report = format!(
            "nothing is secured, because assurance is {assurance} ({by}){why}; the process can be \
             killed while a guest runs, so this is not for production"
        );
        tracing::warn!("{report}");
        if self.by_environment {
            // The program may not report it, and did not choose it. A closed pipe is not an error.
            let _ = writeln!(io::stderr(), "warning: {report}");
        }
        report
    }
}
