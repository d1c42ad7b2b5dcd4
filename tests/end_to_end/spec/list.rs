//! The list of expected differences, `spec-differences.txt`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a script, for example `proposals/memory64/memory64.wast:12`. If the policy for imported
/// memories is not the default, the policy follows, as in `wasm-latest/imports.wast:12 keep`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) policy: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match &self.policy {
            Some(policy) => write!(f, " {policy}"),
            None => Ok(()),
        }
    }
}

/// Places, each with the reason why its directive does not hold with the rewritten module.
pub(super) type Differences = BTreeMap<Place, String>;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("end_to_end/spec-differences.txt")
}

/// Reads the list. Each line is a place, a tab, and a reason.
pub(super) fn read() -> Differences {
    let text = std::fs::read_to_string(path()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (place, reason) = line.split_once('\t').unwrap();
            let (file, rest) = place.rsplit_once(':').unwrap();
            let mut words = rest.split(' ');
            let place = Place {
                file: file.to_owned(),
                line: words.next().unwrap().parse().unwrap(),
                policy: words.next().map(str::to_owned),
            };
            (place, reason.to_owned())
        })
        .collect()
}

pub(super) fn write(differences: &Differences) {
    let mut text = String::from(
        "# Directives of the specification's tests that hold with the original module and not with the\n\
         # rewritten one: place, tab, reason. Written by `BLESS=1 cargo test -p wasm-prealloc-tests\n\
         # --test spec`. The tests check that the list is exact. A line number without a policy is for\n\
         # `--memory-import refuse`. For `keep` and `define`, only places with another reason are listed.\n",
    );
    for (place, reason) in differences {
        text += &format!("{place}\t{reason}\n");
    }
    std::fs::write(path(), text).unwrap();
}
