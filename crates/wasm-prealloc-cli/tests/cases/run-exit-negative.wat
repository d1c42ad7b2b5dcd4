;; RUN: run -q --pages 16 %s
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 16 16)
  (func (export "_start") (call $exit (i32.const -1))))
