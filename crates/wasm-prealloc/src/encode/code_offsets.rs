//! The code offsets that differ between a module and its rewritten form.

/// The code of a core module that has another offset in the code section than before. Functions are
/// given by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CodeOffsets {
    /// In a component, the module's position among the core modules.
    pub module: Option<u32>,
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
    /// Returns true if all code has the offset that it had.
    pub(crate) fn are_unchanged(&self) -> bool {
        self.nudged.is_empty() && self.relocated.is_empty() && self.shifted_from.is_none()
    }
}
