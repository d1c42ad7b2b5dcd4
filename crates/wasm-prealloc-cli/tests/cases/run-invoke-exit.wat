;; RUN: run -q --pages 16 --invoke f %s
;; The function does not return, so it has no result.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 16 16)
  (func (export "f") (result i32) (call $exit (i32.const 3)) (i32.const 1)))
