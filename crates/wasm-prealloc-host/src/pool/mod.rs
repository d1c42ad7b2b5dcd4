//! Pools of committed memories: their options, securing them, lending them, and zeroing them.

pub(crate) mod assurance;
pub(crate) mod asynchronous;
pub(crate) mod builder;
pub(crate) mod engine_side;
pub(crate) mod lent;
pub(crate) mod loans;
pub(crate) mod memory_pool;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod queue;
pub(crate) mod reservation;
pub(crate) mod reset;
pub(crate) mod shared;
pub(crate) mod slot;
pub(crate) mod slots;
pub(crate) mod split_pages;
pub(crate) mod statistics;
pub(crate) mod tracking;
pub(crate) mod watermark;
