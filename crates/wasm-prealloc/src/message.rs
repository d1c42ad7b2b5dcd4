//! Serialized items with a sentence for people. It is the problem without the remedy, because a
//! remedy names settings of this crate, and the program that serializes has other names for them.

use serde::{Serialize, Serializer};

use crate::rewrite::report::Warning;
use crate::verify::Violation;

/// An item that is serialized with a sentence.
pub(crate) trait Problem: Serialize {
    fn problem(&self) -> String;
}

impl Problem for Warning {
    fn problem(&self) -> String {
        self.problem()
    }
}

impl Problem for Violation {
    fn problem(&self) -> String {
        self.problem()
    }
}

/// An item's fields, and `message`.
#[derive(Serialize)]
struct WithMessage<'a, T> {
    #[serde(flatten)]
    item: &'a T,
    message: String,
}

/// Serializes a list of items, each with its problem in a field `message`.
pub(crate) fn serialize_all<T: Problem, S: Serializer>(
    items: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|item| WithMessage {
        item,
        message: item.problem(),
    }))
}
