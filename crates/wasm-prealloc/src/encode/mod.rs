//! Turns the edits of a module into bytes. `rewrite` decides the edits, and these files do not depend
//! on it.

pub(crate) mod bodies;
pub(crate) mod code_metadata;
pub(crate) mod code_offsets;
pub(crate) mod functions;
mod local_names;
pub(crate) mod names;
pub(crate) mod offset_map;
pub(crate) mod sections;
mod slack;
pub(crate) mod splice;
