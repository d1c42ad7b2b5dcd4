//! Serialized items with the sentence that people read.

use std::fmt::Display;

use serde::{Serialize, Serializer};

/// An item's fields, and `message`.
#[derive(Serialize)]
struct WithMessage<'a, T> {
    #[serde(flatten)]
    item: &'a T,
    message: String,
}

/// Serializes a list of items, each with the text that it displays as in a field `message`.
pub(crate) fn serialize_all<T: Serialize + Display, S: Serializer>(
    items: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|item| WithMessage {
        item,
        message: item.to_string(),
    }))
}
