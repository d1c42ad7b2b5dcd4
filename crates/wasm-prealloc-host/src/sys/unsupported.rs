//! Systems without readable limits, huge pages, populating that can be refused, or write tracking:
//! each function returns an error.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use super::{Advice, Mapping};
use crate::sys::tracking::{TrackingError, TrackingInterface};

pub(crate) const HAS_LIMIT_FILES: bool = false;
pub(crate) const HAS_HUGE_PAGES: bool = false;
pub(crate) const HAS_PAGE_TABLES: bool = false;
pub(crate) const PAGEMAP: &str = "";

/// Returns a number that the process keeps and that none of its children has.
pub(crate) fn process_mark() -> u64 {
    std::process::id().into()
}

/// # Safety
/// It does nothing.
pub(crate) unsafe fn advise(_start: NonNull<u8>, _bytes: usize, _: Advice) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives the pages of a range back, so that it reads as zero. The caller writes zeros instead.
///
/// # Safety
/// None.
pub(crate) unsafe fn discard(_start: NonNull<u8>, _bytes: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn merges_equal_pages() -> bool {
    false
}

pub(crate) fn bound_nodes() -> Option<Vec<usize>> {
    None
}

pub(crate) fn has_transparent_huge_pages(_bytes: usize) -> bool {
    false
}

/// # Safety
/// It does nothing.
pub(crate) unsafe fn map_huge_pages(_start: NonNull<u8>, _bytes: usize, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Mappings cannot be read: the whole range counts as anonymous memory.
pub(crate) fn mappings(range: Range<usize>) -> io::Result<Vec<Mapping>> {
    Ok(vec![Mapping {
        range,
        shared: false,
        file: false,
        accessible: true,
    }])
}

/// The outcome of a [`Child`].
#[derive(Debug)]
#[allow(dead_code, reason = "no child is ever made")]
pub(crate) enum Outcome {
    Committed,
    Killed,
    Failed(&'static str, io::Error),
}

/// No limit is hidden on systems without limits, so no child is ever made.
#[derive(Debug)]
pub(crate) enum Child {}

impl Child {
    pub(crate) fn start(_spread_bytes: usize, _whole_bytes: usize) -> io::Result<Child> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn address_space_bytes() -> u64 {
        0
    }

    pub(crate) fn committed_bytes(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn outcome(&mut self) -> io::Result<Option<Outcome>> {
        match *self {}
    }
}

/// Page tables cannot be read: no value of this type exists.
#[derive(Debug)]
pub(crate) enum PageTables {}

impl PageTables {
    pub(crate) fn open() -> io::Result<PageTables> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn own(
        &self,
        _: Range<usize>,
        _anonymous: bool,
        _: impl FnMut(Range<usize>),
    ) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn unshared(&self, _: Range<usize>, _: impl FnMut(Range<usize>)) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn any_swapped(&self, _: Range<usize>) -> io::Result<bool> {
        match *self {}
    }
}

/// Write tracking is unsupported: no value of this type exists.
#[derive(Debug)]
pub(crate) enum Tracker {}

impl Tracker {
    pub(crate) fn open() -> Result<Tracker, TrackingError> {
        Err(TrackingError::NotLinux)
    }

    pub(crate) fn interface(&self) -> TrackingInterface {
        match *self {}
    }

    /// # Safety
    /// It cannot be called.
    pub(crate) unsafe fn watch(&self, _range: Range<usize>) -> io::Result<()> {
        match *self {}
    }

    /// # Safety
    /// It cannot be called.
    pub(crate) unsafe fn unwatch(&self, _range: Range<usize>) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn expose(&self, _range: Range<usize>) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn forget(&self, _range: Range<usize>) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn written(&self, _: Range<usize>, _: &mut Vec<Range<usize>>) -> io::Result<()> {
        match *self {}
    }
}
