//! The differences between an outcome and the expectation.

/// A sentence for each expectation that does not hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences(Vec<String>);

impl Differences {
    pub(crate) fn expect(&mut self, holds: bool, expectation: impl Into<String>) {
        if !holds {
            self.0.push(expectation.into());
        }
    }

    /// Returns all differences as one text.
    pub(crate) fn into_result(self) -> Result<(), String> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self.0.join("; ")),
        }
    }
}
