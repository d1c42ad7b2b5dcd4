//! The code offsets that differ between a module and its rewritten form.

use super::offset_map::OffsetMap;
use crate::analysis::module_info::ModuleInfo;
use crate::analysis::sections::id;

/// The code of a core module that has another offset than before. Functions are given by their
/// index. [`OffsetMap`] gives the new place of each instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CodeOffsets {
    /// In a component, the module's position among the core modules.
    pub module: Option<u32>,
    /// The number of bytes by which the content of the code section moved within the file: towards
    /// the end if positive. Source maps and stack traces count from the start of the file, and
    /// DWARF counts from the start of this content.
    #[cfg_attr(feature = "serde", serde(default))]
    pub section_moved: i64,
    /// Functions in which a few instructions moved by up to four bytes, because a number near by
    /// that was longer than necessary was shortened to make room. Line tables usually still give
    /// the right lines for such code.
    pub nudged: Vec<u32>,
    /// Functions whose code was moved to the end of the section. The code at the old place calls
    /// it.
    pub relocated: Vec<u32>,
    /// The first function from which on all code has moved; `None` if none has.
    pub shifted_from: Option<u32>,
}

impl CodeOffsets {
    /// Returns true if all code has the offset within the code section that it had, so that DWARF
    /// is right as it is.
    #[must_use]
    pub fn keeps_section_offsets(&self) -> bool {
        self.nudged.is_empty() && self.relocated.is_empty() && self.shifted_from.is_none()
    }

    /// Returns true if all code has the offset within the file that it had.
    pub(crate) fn are_unchanged(&self) -> bool {
        self.section_moved == 0 && self.keeps_section_offsets()
    }

    /// Sets `section_moved`, once the whole file's edits are known.
    pub(crate) fn locate_section(&mut self, info: &ModuleInfo<'_>, map: &OffsetMap) {
        let Some(section) = info.section(id::CODE) else {
            return;
        };
        let before = section.content.start as u64;
        if let Some(after) = map.get(before) {
            self.section_moved = after.wrapping_sub(before).cast_signed();
        }
    }
}
