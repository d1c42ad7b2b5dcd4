;; RUN: run -q --pages 16 --timeout 50ms %s
;; Sleeps for an hour in one call.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 16 16)
  (func (export "_start")
    ;; A subscription: the monotonic clock, after this many nanoseconds.
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))
