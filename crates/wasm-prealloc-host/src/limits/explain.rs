//! Finds the limit that explains a failure of the kernel.

use std::io::ErrorKind;

use crate::error::SecureError;
use crate::limits::headroom::{Headroom, Need};

/// Replaces a failure of the kernel by the limit that explains it, if a fresh reading finds one.
/// It allocates, so the caller unmaps everything before.
pub(crate) fn explain(mut error: SecureError, need: &Need) -> SecureError {
    let caused_by_limit = match &error {
        SecureError::CgroupRefused { .. } => true,
        // A limit is the usual cause of ENOMEM, and of EFAULT for huge pages of the machine's pool:
        // a cgroup refuses them when they are used.
        SecureError::System { source, .. } => {
            let of_pool = need.huge_pool_bytes > 0;
            source.kind() == ErrorKind::OutOfMemory
                || (of_pool && source.raw_os_error() == Some(libc::EFAULT))
        }
        _ => false,
    };
    if !caused_by_limit {
        return error;
    }
    let headroom = Headroom::read().ok();
    let shortfall = headroom.as_ref().and_then(|now| match &error {
        // The kernel counts some of its limits less exactly than it reports them.
        SecureError::System { .. } => now.explanation(need),
        _ => now.shortfall(need),
    });
    if let Some(shortfall) = shortfall {
        return SecureError::Shortfall(shortfall);
    }
    if let SecureError::CgroupRefused {
        needed_bytes,
        nearest,
        ..
    } = &mut error
    {
        *needed_bytes = need.physical_bytes;
        *nearest = headroom.and_then(|now| now.nearest_cgroup().cloned().map(Box::new));
    }
    error
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn nothing() -> Need {
        Need::populate(0, 0)
    }

    fn too_much() -> Need {
        Need::populate(1 << 60, 0)
    }

    #[test]
    fn no_memory_names_the_limit_if_there_is_one() {
        let failed = |call, code| SecureError::system(call, 1)(io::Error::from_raw_os_error(code));
        let error = explain(failed("mmap", libc::ENOMEM), &too_much());
        assert!(matches!(error, SecureError::Shortfall(_)), "{error}");
        let error = explain(failed("mmap", libc::ENOMEM), &nothing());
        assert!(
            matches!(error, SecureError::System { call: "mmap", .. }),
            "{error}"
        );
        let error = explain(failed("mprotect", libc::EPERM), &too_much());
        assert!(
            matches!(error, SecureError::System { bytes: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_refusal_of_a_cgroup_is_an_error_of_its_own_if_every_limit_allows_the_need() {
        let full = || SecureError::CgroupRefused {
            committed_bytes: 4 << 20,
            needed_bytes: 0,
            nearest: None,
        };
        let error = explain(full(), &nothing());
        assert!(
            matches!(error, SecureError::CgroupRefused { committed_bytes, .. } if committed_bytes == 4 << 20),
            "{error}"
        );
        let error = explain(full(), &too_much());
        assert!(matches!(error, SecureError::Shortfall(_)), "{error}");
    }

    #[test]
    fn missing_residency_is_an_error_whatever_the_limits_are() {
        let error = SecureError::NotResident {
            expected_bytes: 2,
            resident_bytes: 1,
        };
        let error = explain(error, &too_much());
        assert!(matches!(error, SecureError::NotResident { .. }), "{error}");
    }
}
