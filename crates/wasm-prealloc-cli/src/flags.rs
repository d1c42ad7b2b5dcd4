//! The remedies of the library in terms of flags. Errors, warnings and violations of the library name
//! its API, and this file replaces these names by flags.

use wasm_prealloc::{Error, Setting, Violation, Warning};

use crate::pages::{Pages, index};

/// Returns an error with the flags of `rewrite`. The errors of other commands have no remedy, except
/// the refusal that `inspect` prints for `rewrite`, and `--features`, which `inspect` has too.
pub(crate) fn error(error: &Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{}: {}", error.problem(), remedy.with(quoted)),
        None => error.problem(),
    }
}

/// Returns a warning as `rewrite` prints it.
pub(crate) fn warning(warning: &Warning) -> String {
    match warning.remedy() {
        Some(remedy) => format!("{}; {}", warning.problem(), remedy.with(quoted)),
        None => warning.problem(),
    }
}

/// Returns a violation with the flags of `rewrite` that give the expected sizes. Without these flags,
/// `rewrite` would pin the memories at other sizes.
pub(crate) fn violation(violation: &Violation, expected: &Pages) -> String {
    let problem = violation.problem();
    let rewrite = |setting: &Setting| match setting {
        Setting::Pages { .. } => format!("`wasm-prealloc rewrite {expected}`"),
        setting => format!("`wasm-prealloc rewrite {expected} {}`", flag(setting)),
    };
    match violation.remedy() {
        Some(remedy) => format!("{problem}: {}", remedy.with(rewrite)),
        None => problem,
    }
}

fn quoted(setting: &Setting) -> String {
    format!("`{}`", flag(setting))
}

/// Returns the flag of `rewrite` for a setting, with its value. `N` is a number that the user knows.
fn flag(setting: &Setting) -> String {
    match setting {
        Setting::Pages {
            memory: None,
            pages: None,
        } => "--pages".to_owned(),
        Setting::Pages { memory, pages } => {
            let memory = memory.map_or(String::new(), |memory| format!("{}=", index(memory)));
            let pages = pages.map_or("N".to_owned(), |pages| pages.to_string());
            format!("--pages {memory}{pages}")
        }
        Setting::Growth(growth) => format!("--growth {growth}"),
        Setting::EmulateFrom(None) => "--emulate-from N".to_owned(),
        Setting::EmulateFrom(Some(from)) => format!("--emulate-from {from}"),
        Setting::EmulateTo => "--emulate-to N".to_owned(),
        Setting::MemoryImport(policy) => format!("--memory-import {policy}"),
        Setting::MemoryImportName => "--memory-import-name".to_owned(),
        Setting::ExportCommit => "--export-commit".to_owned(),
        Setting::Features(features) => format!("--features {features}"),
        Setting::SourceMap => "--source-map".to_owned(),
    }
}
