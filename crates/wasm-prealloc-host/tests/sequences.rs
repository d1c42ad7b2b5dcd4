//! Random sequences of everything that a host does with a pool, on small pools of every kind:
//! nothing of one loan is visible to the next, no slot is lost, and nothing hangs.
//!
//! `WASM_PREALLOC_SEQUENCES` sets their number, `WASM_PREALLOC_SEED` the first seed.
#![allow(
    unsafe_code,
    reason = "guests write through addresses, and children are forked"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod support;

use std::io::Read as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use fastrand::Rng;
use wasm_prealloc_host::{
    LendError, LentMemory, LockOptions, MemoryPool, Policy, Reservation, Reset, Tracking,
    WhenExhausted,
};

use support::is_zero;

const PAGE: usize = 64 << 10;
const DEFAULT_SEQUENCES: u64 = 1_000;
/// The number of sequences that share a pool: securing one takes longer than a sequence.
const SEQUENCES_OF_A_POOL: u64 = 40;
/// The longest time that one sequence may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn random_sequences_lose_nothing_show_nothing_and_end() {
    let sequences = number("WASM_PREALLOC_SEQUENCES").unwrap_or(DEFAULT_SEQUENCES);
    let first = number("WASM_PREALLOC_SEED").unwrap_or(1);
    let (progress, seeds) = mpsc::channel();
    let runner = std::thread::spawn(move || {
        for start in (first..first + sequences).step_by(SEQUENCES_OF_A_POOL as usize) {
            let pool = pool(start / SEQUENCES_OF_A_POOL);
            for seed in start..(start + SEQUENCES_OF_A_POOL).min(first + sequences) {
                progress.send(seed).unwrap();
                Sequence::new(&pool, seed).run();
            }
        }
    });
    let mut seed = first;
    loop {
        match seeds.recv_timeout(PATIENCE) {
            Ok(next) => seed = next,
            Err(RecvTimeoutError::Timeout) => panic!("the sequence of seed {seed} hangs"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let outcome = runner.join();
    assert!(outcome.is_ok(), "failed with WASM_PREALLOC_SEED={seed}");
}

/// Makes a pool of the kind with this number.
fn pool(kind: u64) -> MemoryPool {
    let pages = [64, 33, 1, 128][(kind / 3 % 4) as usize];
    let policy = match kind % 4 {
        1 => Policy::CommitMaximum,
        3 => Policy::Cap { pages },
        _ => Policy::Declared,
    };
    let tracking = [Tracking::Auto, Tracking::Off][(kind / 2 % 2) as usize];
    let reset = Reset::ALL[(kind / 4 % 2) as usize];
    let wait = WhenExhausted::Wait(Duration::from_millis(1));
    let when_exhausted = [WhenExhausted::Fail, wait][(kind / 8 % 2) as usize];
    let mut lock = LockOptions::default();
    lock.path = std::env::temp_dir();
    MemoryPool::builder()
        .slots(1 + (kind % 3) as usize)
        .pages(pages)
        .policy(policy)
        .tracking(tracking)
        .reset(reset)
        .when_exhausted(when_exhausted)
        .lock(lock)
        .secure()
        .unwrap()
}

/// One sequence: what is lent and reserved in it.
struct Sequence<'a> {
    pool: &'a MemoryPool,
    random: Rng,
    seed: u64,
    lent: Vec<LentMemory>,
    reserved: Vec<Reservation>,
}

impl<'a> Sequence<'a> {
    fn new(pool: &'a MemoryPool, seed: u64) -> Self {
        Sequence {
            pool,
            random: Rng::with_seed(seed),
            seed,
            lent: Vec::new(),
            reserved: Vec::new(),
        }
    }

    fn run(mut self) {
        for _ in 0..self.random.usize(5..25) {
            match self.random.u8(0..16) {
                0..4 => self.lend(),
                4 => self.reserve(),
                5..7 => self.grow(),
                7..11 => self.write(),
                11..14 => self.give_back(),
                14 => self.check(),
                _ if self.seed.is_multiple_of(16) => self.fork(),
                _ => self.lend_from_a_thread(),
            }
            let held = self.held();
            let now = self.pool.statistics();
            assert_eq!((now.lent, now.retired), (held, 0), "{now:?}");
            assert_eq!(now.tracking_failures, 0, "{now:?}");
        }
        self.lent.clear();
        self.reserved.clear();
        let slots = self.pool.slots();
        // It waits for slots that are being reset, so all of them are there.
        let mut all = self.pool.reserve(slots).unwrap();
        while !all.is_empty() {
            let (minimum, maximum) = self.limits();
            let mut memory = all.lend(minimum, Some(maximum)).unwrap();
            memory.grow_to(memory.maximum_bytes()).unwrap();
            assert!(is_zero(memory.bytes()), "seed {}", self.seed);
            self.lent.push(memory);
        }
    }

    fn held(&self) -> usize {
        let reserved = self.reserved.iter().map(Reservation::len);
        self.lent.len() + reserved.sum::<usize>()
    }

    /// Returns limits that the pool accepts, in pages.
    fn limits(&mut self) -> (u64, u64) {
        let pages = self.pool.pages();
        match self.pool.policy() {
            Policy::Declared => (pages, pages),
            policy => {
                let minimum = self.random.u64(0..=pages);
                // Above the cap too.
                let most = match policy {
                    Policy::Cap { .. } => 2 * pages,
                    _ => pages,
                };
                let maximum = self.random.u64(minimum..=most);
                // Many memories start at 0 pages.
                (if self.random.bool() { 0 } else { minimum }, maximum)
            }
        }
    }

    /// Adds a memory that was lent, and checks that it shows nothing.
    fn take(&mut self, lent: Result<LentMemory, LendError>, may_be_refused: bool) {
        match lent {
            Ok(memory) => {
                assert!(is_zero(memory.bytes()), "seed {}", self.seed);
                self.lent.push(memory);
            }
            Err(LendError::NoSlot { .. }) if may_be_refused => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn lend(&mut self) {
        let (minimum, maximum) = self.limits();
        let mut reserved = self.reserved.pop();
        match reserved.as_mut().filter(|reserved| !reserved.is_empty()) {
            Some(reserved) => {
                let lent = reserved.lend(minimum, Some(maximum));
                self.take(lent, false);
            }
            None => {
                let all_lent = self.held() == self.pool.slots();
                let lent = self.pool.lend(minimum, Some(maximum));
                self.take(lent, all_lent);
            }
        }
        self.reserved.extend(reserved);
    }

    fn reserve(&mut self) {
        let count = self.random.usize(0..=self.pool.slots() + 1);
        let free = self.pool.slots() - self.held();
        match self.pool.reserve(count) {
            Ok(reservation) => self.reserved.push(reservation),
            Err(LendError::NoSlot { .. }) => assert!(count > free),
            Err(LendError::TooManyMemories { .. }) => assert!(count > self.pool.slots()),
            Err(other) => panic!("{other}"),
        }
    }

    fn grow(&mut self) {
        let Some(memory) = self.random.choice(&mut self.lent) else {
            return;
        };
        let before = memory.len();
        // A length that is no multiple of a page makes the whole page accessible, which the guest
        // may have written.
        let accessible = before.next_multiple_of(PAGE);
        let length = self.random.usize(before..=memory.maximum_bytes());
        memory.grow_to(length).unwrap();
        assert!(is_zero(&memory.bytes()[accessible.min(length)..]));
        assert!(memory.grow_to(memory.maximum_bytes() + 1).is_err());
    }

    /// Writes as a guest does, as a host does, or as the kernel does.
    fn write(&mut self) {
        let Some(memory) = self.random.choice(&mut self.lent) else {
            return;
        };
        if memory.is_empty() {
            return;
        }
        let mut start = self.random.usize(0..memory.len());
        if self.random.u8(0..4) == 0 {
            start = 0;
        }
        let bytes = self.random.usize(1..=memory.len() - start);
        match self.random.u8(0..4) {
            0 => memory.bytes_mut()[start..start + bytes].fill(0xa5),
            1 => {
                for at in (start..start + bytes).step_by(self.random.usize(1..9000)) {
                    // SAFETY: the byte is accessible, and only this thread uses the memory.
                    unsafe { memory.as_ptr().add(at).write_volatile(1) };
                }
            }
            2 => {
                let bytes = bytes.min(100_000);
                let mut file = std::fs::File::open("/dev/urandom").unwrap();
                let target = &mut memory.bytes_mut()[start..start + bytes];
                file.read_exact(target).unwrap();
            }
            _ => {
                let source = vec![7_u8; bytes];
                let range = |address: *mut u8| libc::iovec {
                    iov_base: address.cast(),
                    iov_len: bytes,
                };
                let from = range(source.as_ptr().cast_mut());
                let to = range(memory.as_ptr().wrapping_add(start));
                // SAFETY: both ranges are this process's, and the target is accessible.
                let written = unsafe {
                    libc::process_vm_writev(libc::getpid(), &raw const from, 1, &raw const to, 1, 0)
                };
                // A sandbox may deny the call.
                assert!(written == bytes as isize || written == -1);
            }
        }
        if self.pool.policy() != Policy::Declared && self.random.bool() {
            let end = memory
                .len()
                .next_multiple_of(PAGE)
                .min(memory.maximum_bytes());
            // SAFETY: the page that contains the end is accessible.
            unsafe { memory.as_ptr().add(end - 1).write(9) };
        }
    }

    fn give_back(&mut self) {
        if self.random.u8(0..4) == 0 {
            self.reserved.pop();
        } else if !self.lent.is_empty() {
            let index = self.random.usize(0..self.lent.len());
            self.lent.swap_remove(index);
        }
    }

    fn check(&mut self) {
        let bytes = self.pool.slots() * self.pool.pages() as usize * PAGE;
        let residency = self.pool.check().unwrap();
        assert_eq!(residency.resident_bytes, bytes as u64);
    }

    /// Lets a child inherit everything and drop a part of it.
    fn fork(&mut self) {
        // SAFETY: the child only drops loans, and ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            self.lent.clear();
            self.reserved.clear();
            let refused = matches!(self.pool.reserve(1), Err(LendError::Forked));
            // SAFETY: the child ends here.
            unsafe { libc::_exit(if refused { 0 } else { 1 }) };
        }
        assert!(child > 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the status outlives the call.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "seed {}", self.seed);
    }

    /// Lets another thread lend and write while this one holds what it has.
    fn lend_from_a_thread(&mut self) {
        let (minimum, maximum) = self.limits();
        let pool = self.pool;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Ok(mut memory) = pool.lend(minimum, Some(maximum)) {
                    assert!(is_zero(memory.bytes()));
                    memory.bytes_mut().fill(3);
                }
            });
        });
    }
}
