//! A guest that can be instantiated and run, and that does nothing. It has almost no code, so the cost
//! of instantiating it is the cost of its memory.

/// Returns at once.
#[expect(unsafe_code, reason = "an export keeps its name only with `no_mangle`")]
// SAFETY: this module has no other symbol `_start`.
#[unsafe(no_mangle)]
pub extern "C" fn _start() {}
