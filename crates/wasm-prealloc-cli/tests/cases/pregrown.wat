;; RUN: rewrite %s -o %t
;; Only the embedder grows this memory, so its size reads as grown, up to one page before it wraps.
(module
  (import "env" "resize" (func (param i32) (result i32)))
  (global (mut i32) (i32.const 7))
  (memory (export "memory") 256 65536)
  (func (export "bytes") (result i32) (i32.shl (memory.size) (i32.const 16))))
