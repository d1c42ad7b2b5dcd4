//! The same memory read in the three ways: by scans, by entries, and without page tables.

use std::cell::Cell;
use std::ptr::NonNull;

use super::*;
use crate::commit::region::Region;
use crate::sys::Advice;

const MIB: usize = 1 << 20;

thread_local! {
    /// Takes the place of [`Reader::open`] in this thread.
    pub(super) static FORCED: Cell<Option<fn() -> Reader>> = const { Cell::new(None) };
}

/// Runs a test in each of the three ways.
#[cfg(target_os = "linux")]
pub(crate) fn in_every_way(test: impl Fn(&Reader)) {
    let entries = || Reader::PageTables(PageTables::of_entries().unwrap());
    let unreadable = || Reader::Unreadable(io::ErrorKind::NotFound.into());
    let ways: [Option<fn() -> Reader>; 3] = [None, Some(entries), Some(unreadable)];
    for way in ways {
        FORCED.set(way);
        test(&Reader::open());
        FORCED.set(None);
    }
}

/// Returns the ways that this system has. A kernel with scans has all of them.
fn readers() -> Vec<Reader> {
    let mut readers = vec![Reader::open()];
    #[cfg(target_os = "linux")]
    {
        readers.push(Reader::PageTables(PageTables::of_entries().unwrap()));
        readers.push(Reader::Unreadable(io::ErrorKind::NotFound.into()));
    }
    readers
}

fn write(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the ranges of these tests are writable and their own.
    unsafe { base.write_bytes(1, bytes) };
}

fn read(base: NonNull<u8>, bytes: usize) {
    for at in (0..bytes).step_by(sys::page_bytes()) {
        // SAFETY: as above.
        let byte = unsafe { base.add(at).read_volatile() };
        assert_eq!(byte, 0);
    }
}

#[test]
fn residency_is_cut_to_the_range() {
    let region = Region::writable(MIB);
    write(region.base(), 2 * sys::page_bytes());
    let written = 2 * sys::page_bytes() as u64;
    let inside = region.base().as_ptr().wrapping_add(100);
    for reader in readers() {
        assert_eq!(reader.count(inside, 1000).unwrap(), 1000, "{reader:?}");
        assert_eq!(reader.count(inside, MIB / 2).unwrap(), written - 100);
    }
}

#[test]
fn what_was_written_is_not_missing_and_the_rest_is() {
    let region = Region::writable(MIB);
    write(region.base(), MIB / 4);
    for reader in readers() {
        let missing = reader.missing(region.base().as_ptr(), MIB).unwrap();
        match reader {
            Reader::Unreadable(_) => assert_eq!(missing, MIB as u64),
            _ => assert_eq!(missing, (MIB - MIB / 4) as u64, "{reader:?}"),
        }
    }
}

/// mincore(2) counts memory that was only read, on Linux.
#[cfg(target_os = "linux")]
#[test]
fn the_zero_page_does_not_count() {
    for advice in [Advice::BasePages, Advice::HugePages] {
        let region = Region::writable(4 * MIB);
        let base = region.base();
        // SAFETY: the range is this test's own. Without huge pages the zero page is a base page.
        let _ = unsafe { sys::advise(base, 4 * MIB, advice) };
        read(base, 4 * MIB);
        write(base, 1);
        // With huge pages the write may have taken one.
        for reader in readers() {
            let missing = reader.missing(base.as_ptr(), 4 * MIB).unwrap();
            assert!(missing >= 2 * MIB as u64, "{reader:?}: {missing}");
            if let Reader::PageTables(_) = reader {
                let resident = reader.count(base.as_ptr(), 4 * MIB).unwrap();
                assert!(resident <= 2 * MIB as u64, "{reader:?}: {resident}");
            }
        }
        // SAFETY: the range is mapped, readable, and not written by anything else.
        let bytes = unsafe { std::slice::from_raw_parts(base.as_ptr(), 4 * MIB) };
        assert!(resident_bytes(bytes).unwrap() <= 2 * MIB as u64);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn pages_of_a_file_do_not_count_until_they_are_written() {
    let file = crate::commit::in_place::tests::PrivateFile::new(&vec![7; MIB]);
    let base = file.base();
    for reader in readers() {
        assert_eq!(reader.missing(base.as_ptr(), MIB).unwrap(), MIB as u64);
    }
    write(base, MIB / 2);
    for reader in readers() {
        if let Reader::PageTables(_) = reader {
            assert_eq!(reader.missing(base.as_ptr(), MIB).unwrap(), MIB as u64 / 2);
            assert_eq!(reader.count(base.as_ptr(), MIB).unwrap(), MIB as u64 / 2);
        }
    }
}

/// Pages that are moved all the time count. Pages that were never written do not, and cost no pause.
#[cfg(target_os = "linux")]
#[test]
fn pages_that_the_kernel_moves_count() {
    let region = Region::writable(64 * MIB);
    let base = region.base();
    // SAFETY: the range is this test's own.
    unsafe { sys::advise(base, 64 * MIB, Advice::BasePages) }.unwrap();
    write(base, 32 * MIB);
    let compact = || std::fs::write("/proc/sys/vm/compact_memory", "1");
    if let Err(why) = compact() {
        println!("skipped: moving pages: {why}");
        return;
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    // SAFETY: the range is mapped and readable, and not written by anything else.
    let bytes = unsafe { std::slice::from_raw_parts(base.as_ptr(), 64 * MIB) };
    let (mut least, mut counts) = (u64::MAX, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(order) {
                compact().unwrap();
            }
        });
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            least = least.min(resident_bytes(bytes).unwrap());
            counts += 1;
        }
        stop.store(true, order);
    });
    println!("{counts} counts");
    assert_eq!(least, 32 * MIB as u64);
    for reader in readers() {
        assert!(!reader.has_moving(base.as_ptr(), 64 * MIB).unwrap());
    }
}

#[test]
fn all_ranges_are_counted_and_a_missing_part_is_an_error() {
    let regions = [Region::writable(3 * MIB), Region::writable(MIB)];
    for region in &regions {
        write(region.base(), MIB);
    }
    let range = |index: usize, bytes| (regions[index].base().as_ptr().cast_const(), bytes);
    let counted = residency([range(0, MIB), range(1, MIB)].into_iter()).unwrap();
    assert_eq!(counted.expected_bytes, 2 * MIB as u64);
    assert_eq!(counted.resident_bytes, 2 * MIB as u64);
    match residency([range(0, 3 * MIB), range(1, MIB)].into_iter()) {
        Err(SecureError::NotResident {
            expected_bytes,
            resident_bytes,
        }) => assert_eq!((expected_bytes, resident_bytes), (4 << 20, 2 << 20)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn counting_takes_less_than_a_second() {
    let region = Region::writable(64 * MIB);
    write(region.base(), 64 * MIB);
    let range = (region.base().as_ptr().cast_const(), 64 * MIB);
    let counted = residency([range].into_iter()).unwrap();
    assert!(counted.elapsed < Duration::from_secs(1), "{counted:?}");
}
