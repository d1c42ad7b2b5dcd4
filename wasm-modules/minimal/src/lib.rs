//! A guest that can be instantiated and run, and that does nothing.
//! What is left of a guest without code is its memory: whatever instantiating this one costs, the
//! memory costs. Nothing else belongs here.

/// Returns at once.
#[expect(unsafe_code, reason = "an export keeps its name only with `no_mangle`")]
// SAFETY: no other symbol of this module is called `_start`.
#[unsafe(no_mangle)]
pub extern "C" fn _start() {}
