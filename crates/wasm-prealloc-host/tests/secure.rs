//! Regions committed by every backing: resident, zero, and given back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{is_zero, one_at_a_time, skipped};
use wasm_prealloc_host::{
    Backing, Method, Requirements, SecureError, SecuredRegion, WASM_PAGE_BYTES, resident_bytes,
};

fn requirements(pages: u64, backing: Backing) -> Requirements {
    let mut requirements = Requirements::of_pages(pages);
    requirements.backing = backing;
    requirements
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
    let checked = region.check().unwrap();
    assert_eq!(checked.expected_bytes, bytes);
    assert_eq!(checked.resident_bytes, bytes);
    assert_eq!(resident_bytes(region.bytes()).unwrap(), bytes);
    region.secured().how
}

#[test]
fn base_pages_are_populated() {
    assert_eq!(secure(4096, Backing::Base), Method::Populated);
}

#[test]
fn huge_pages_are_collapsed_if_the_kernel_has_any() {
    let how = secure(4096, Backing::Auto);
    if how != Method::Collapsed {
        skipped(&format!("no huge pages, committed by {how}"));
    }
}

#[test]
fn transparent_huge_pages_throughout_or_an_error() {
    let _turn = one_at_a_time();
    // With a tail that is smaller than a huge page.
    match SecuredRegion::secure(&requirements(4097, Backing::Transparent)) {
        Ok(region) => assert_eq!(region.secured().how, Method::Collapsed),
        Err(SecureError::NoHugePages { needed_bytes, .. }) => {
            assert_eq!(needed_bytes, 4097 << 16);
            skipped("no huge pages here, as the error says");
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
fn a_whole_linear_memory_is_committed() {
    secure(65_536, Backing::Auto);
}

#[test]
fn page_counts_out_of_range_are_refused() {
    for pages in [0, 65_537, u64::MAX] {
        match SecuredRegion::secure(&requirements(pages, Backing::Auto)) {
            Err(SecureError::PageCount { pages: refused }) => assert_eq!(refused, pages),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_margin_larger_than_the_machine_is_a_shortfall() {
    let mut requirements = requirements(16, Backing::Auto);
    requirements.margin_bytes = 1 << 50;
    match SecuredRegion::secure(&requirements) {
        Err(SecureError::Shortfall(shortfall)) => {
            assert_eq!(shortfall.needed_bytes, (1 << 50) + (1 << 20) + (1 << 11));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    let directory = tempfile::tempdir().unwrap();
    let held = std::fs::File::open(directory.path()).unwrap();
    held.lock().unwrap();
    let mut requirements = requirements(16, Backing::Auto);
    requirements.lock.path = directory.path().to_owned();
    requirements.lock.timeout = std::time::Duration::from_millis(30);
    match SecuredRegion::secure(&requirements) {
        Err(SecureError::LockTimeout { path, waited }) => {
            assert_eq!(path, directory.path());
            assert!(waited >= requirements.lock.timeout, "{waited:?}");
        }
        other => panic!("{other:?}"),
    }
    held.unlock().unwrap();
    SecuredRegion::secure(&requirements).unwrap();
}
