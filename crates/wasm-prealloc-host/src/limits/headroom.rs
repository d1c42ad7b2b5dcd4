//! Reads what every limit leaves to this process now, and compares it with a need.
//!
//! Cgroups are read in `cgroup`, the machine's limits in `machine`, and those of the process in
//! `process`. A reading is true only at its moment, so `secure` holds a lock
//! from the reading to the end of the commit.

use std::cmp::Reverse;

use crate::error::SecureError;
use crate::limits::cgroup::{self, Cgroups};
use crate::limits::files::Files;
use crate::limits::limit::{Limit, Reading};
use crate::limits::machine;
pub use crate::limits::need::Need;
use crate::limits::process;
use crate::limits::shortfall::Shortfall;
use crate::limits::visibility::Visibility;
use crate::sys;

/// Readings of all limits that bind this process. A limit that is set to "unlimited" is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Headroom {
    /// The readings: cgroups from the process's own outwards, then the machine, then the limits of
    /// the process.
    pub readings: Vec<Reading>,
    /// The part of the cgroup limits that could be read.
    pub visibility: Visibility,
}

impl Headroom {
    /// Reads the limits of the running system. Only Linux has readable limits; on other systems
    /// there are no readings.
    ///
    /// # Errors
    /// [`SecureError::Unreadable`] if `meminfo`, `self/status` or `self/limits` of `/proc` cannot
    /// be read, or if any file is not in the expected format. A cgroup that cannot be found, or a
    /// file of a cgroup that cannot be read, is not an error: it is reported as [`Visibility`].
    /// Page cache whose size cannot be read counts as unavailable.
    pub fn read() -> Result<Headroom, SecureError> {
        match sys::HAS_LIMIT_FILES {
            true => Headroom::read_from(&Files::default()),
            false => Ok(Headroom {
                readings: vec![],
                visibility: Visibility::Complete,
            }),
        }
    }

    /// Reads the limits from the files under another root.
    ///
    /// # Errors
    /// As for [`Headroom::read`].
    pub fn read_from(files: &Files) -> Result<Headroom, SecureError> {
        let cgroups = Cgroups::read(files)?;
        let huge_pages = cgroup::huge_pages(files, &cgroups)?;
        let mut headroom = Headroom::physical(files, cgroups)?;
        headroom.readings.extend(process::own(files)?);
        headroom.readings.extend(process::overcommit(files)?);
        headroom.readings.extend(machine::huge_pools(files)?);
        headroom.readings.extend(huge_pages);
        Ok(headroom)
    }

    /// Checks that `need` fits the limits of the process itself now.
    ///
    /// # Errors
    /// As for [`Headroom::read`] and [`Headroom::check`].
    pub(crate) fn check_process(need: &Need) -> Result<(), SecureError> {
        let readings = match sys::HAS_LIMIT_FILES {
            true => process::own(&Files::default())?,
            false => Vec::new(),
        };
        let headroom = Headroom {
            readings,
            visibility: Visibility::Complete,
        };
        headroom.check(need)
    }

    /// Checks that `need`, which is physical memory only, fits now. Between the chunks of a commit
    /// the other limits, which take longer to read, are not read again.
    ///
    /// # Errors
    /// As for [`Headroom::read`] and [`Headroom::check`].
    pub(crate) fn check_physical(need: &Need) -> Result<(), SecureError> {
        match sys::HAS_LIMIT_FILES {
            true => {
                let files = Files::default();
                Headroom::physical(&files, Cgroups::read(&files)?)?.check(need)
            }
            false => Ok(()),
        }
    }

    /// Reads the limits on physical memory.
    fn physical(files: &Files, cgroups: Cgroups) -> Result<Headroom, SecureError> {
        let Cgroups {
            mut readings,
            visibility,
            protected_bytes,
            ..
        } = cgroups;
        readings.extend(machine::memory(files, protected_bytes)?);
        Ok(Headroom {
            readings,
            visibility,
        })
    }

    /// Returns the limit that is exceeded most by `need`, if any is.
    pub fn shortfall(&self, need: &Need) -> Option<Shortfall> {
        self.readings
            .iter()
            .map(|reading| Shortfall::new(reading, need.against(reading)))
            .filter(|shortfall| shortfall.missing_bytes() > 0)
            .min_by_key(|shortfall| Reverse(shortfall.missing_bytes()))
    }

    /// Checks that `need` fits.
    ///
    /// # Errors
    /// [`SecureError::Shortfall`] with the limit that is exceeded most.
    pub fn check(&self, need: &Need) -> Result<(), SecureError> {
        match self.shortfall(need) {
            Some(shortfall) => Err(SecureError::Shortfall(shortfall)),
            None => Ok(()),
        }
    }

    /// Returns a limit that explains why a system call failed with ENOMEM: one that is exceeded, or
    /// else one that could be, given the precision of its reading. At limits on physical memory no
    /// system call fails so.
    pub(crate) fn explanation(&self, need: &Need) -> Option<Shortfall> {
        let nearly = || {
            self.readings
                .iter()
                .map(|reading| Shortfall::new(reading, need.against(reading)))
                .filter(|shortfall| shortfall.needed_bytes > 0 && !shortfall.limit.is_physical())
                .find(Shortfall::is_nearly_exceeded)
        };
        self.shortfall(need).or_else(nearly)
    }

    /// Returns the cgroup limit that leaves least.
    pub(crate) fn nearest_cgroup(&self) -> Option<&Reading> {
        use Limit::{Cgroup, CgroupHidden};
        let readings = self.readings.iter();
        readings
            .filter(|reading| matches!(reading.limit, Cgroup { .. } | CgroupHidden { .. }))
            .min_by_key(|reading| reading.available_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_within_the_precision_of_a_reading_is_explained_by_it() {
        let of = |limit| Reading::new(limit, 100 << 20, 0, 0).drifting(8 << 20);
        let headroom = Headroom {
            readings: vec![of(Limit::Machine), of(Limit::Overcommit)],
            visibility: Visibility::Complete,
        };
        let need = |mib: u64| Need::commit(mib << 20, 0, 0);
        assert_eq!(headroom.shortfall(&need(95)), None);
        let explained = headroom.explanation(&need(95)).unwrap();
        assert_eq!(explained.limit, Limit::Overcommit);
        let message = explained.to_string();
        assert!(message.contains("the kernel refused"), "{message}");
        assert!(
            message.contains("at least 109051904 bytes (104 MiB)"),
            "{message}"
        );
        assert_eq!(headroom.explanation(&need(50)), None);
    }
}
