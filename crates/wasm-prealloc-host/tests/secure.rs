//! Regions really committed, by every backing: resident, zero, and given back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use wasm_prealloc_host::{
    Backing, Error, Method, Requirements, SecuredRegion, WASM_PAGE_BYTES, resident_bytes,
};

/// 4 GiB at a time, whatever the number of test threads.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn requirements(pages: u64, backing: Backing) -> Requirements {
    let mut requirements = Requirements::of_pages(pages);
    requirements.backing = backing;
    requirements
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZERO: [u8; 1 << 16] = [0; 1 << 16];
    bytes
        .chunks(ZERO.len())
        .all(|chunk| chunk == &ZERO[..chunk.len()])
}

#[track_caller]
fn secure(pages: u64, backing: Backing) -> Method {
    let _turn = one_at_a_time();
    let mut region = SecuredRegion::secure(&requirements(pages, backing)).unwrap();
    println!("{}", region.secured());
    let bytes = pages * WASM_PAGE_BYTES;
    assert_eq!(region.bytes().len() as u64, bytes);
    assert_eq!(region.secured().resident_bytes, bytes);
    assert_eq!(resident_bytes(region.bytes()).unwrap(), bytes);
    assert!(is_zero(region.bytes()));
    region.bytes_mut().fill(0xa5);
    assert_eq!(resident_bytes(region.bytes()).unwrap(), bytes);
    region.secured().how
}

#[test]
fn base_pages_are_populated() {
    assert_eq!(secure(4096, Backing::Base), Method::Populated);
}

#[test]
fn huge_pages_where_there_are_any() {
    let how = secure(4096, Backing::Auto);
    if how != Method::Collapsed {
        wasm_prealloc_tests::skipped(&format!("no huge pages here, memory was had by {how}"));
    }
}

#[test]
fn transparent_huge_pages_throughout_or_an_error() {
    let _turn = one_at_a_time();
    // With a tail that no huge page fits into.
    match SecuredRegion::secure(&requirements(4097, Backing::Transparent)) {
        Ok(region) => assert_eq!(region.secured().how, Method::Collapsed),
        Err(Error::NoHugePages { needed_bytes, .. }) => {
            assert_eq!(needed_bytes, 4097 << 16);
            wasm_prealloc_tests::skipped("no huge pages here, which is what was said");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_single_page_is_less_than_a_huge_page() {
    assert_eq!(secure(1, Backing::Auto), Method::Populated);
}

#[test]
fn a_tail_beyond_the_last_huge_page_is_resident_too() {
    for pages in [33, 63, 1025] {
        secure(pages, Backing::Auto);
    }
}

#[test]
fn a_whole_linear_memory() {
    secure(65_536, Backing::Auto);
}

#[test]
fn numbers_of_pages_that_no_memory_has() {
    for pages in [0, 65_537, u64::MAX] {
        match SecuredRegion::secure(&requirements(pages, Backing::Auto)) {
            Err(Error::PageCount { pages: refused }) => assert_eq!(refused, pages),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_margin_that_no_machine_has_is_a_shortfall() {
    let mut requirements = requirements(16, Backing::Auto);
    requirements.margin_bytes = 1 << 50;
    match SecuredRegion::secure(&requirements) {
        Err(Error::Shortfall(shortfall)) => {
            assert_eq!(shortfall.needed_bytes, (1 << 50) + (1 << 20) + (1 << 11));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_then_named() {
    let directory = tempfile::tempdir().unwrap();
    let held = std::fs::File::open(directory.path()).unwrap();
    held.lock().unwrap();
    let mut requirements = requirements(16, Backing::Auto);
    requirements.lock.path = directory.path().to_owned();
    requirements.lock.timeout = std::time::Duration::from_millis(30);
    match SecuredRegion::secure(&requirements) {
        Err(Error::LockTimeout { path, .. }) => assert_eq!(path, directory.path()),
        other => panic!("{other:?}"),
    }
    held.unlock().unwrap();
    SecuredRegion::secure(&requirements).unwrap();
}
