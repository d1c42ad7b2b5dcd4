//! Names of enum values, for command lines and configuration files.

use std::fmt::Display;

/// A name that no value has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {name:?}: choose {expected}")]
#[non_exhaustive]
pub struct UnknownName {
    /// The name that was given.
    pub name: String,
    /// The names that exist, separated by "or".
    pub expected: String,
}

/// Finds the value that is displayed as `name`.
pub(crate) fn parse<T: Copy + Display>(all: &[T], name: &str) -> Result<T, UnknownName> {
    let found = all.iter().find(|value| value.to_string() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(T::to_string).collect();
        UnknownName {
            name: name.to_owned(),
            expected: names.join(" or "),
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::{Backing, LockMemory, PolicyKind};

    #[test]
    fn every_name_is_parsed_and_another_is_refused_with_the_names() {
        for backing in Backing::ALL {
            assert_eq!(backing.to_string().parse(), Ok(backing));
        }
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for lock_memory in LockMemory::ALL {
            assert_eq!(lock_memory.to_string().parse(), Ok(lock_memory));
        }
        let error = "none".parse::<PolicyKind>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"unknown name "none": choose declared or commit-maximum or cap"#
        );
    }
}
