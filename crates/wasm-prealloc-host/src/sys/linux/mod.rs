//! What Linux has beyond other systems.

mod track;

pub(crate) use track::Tracker;
