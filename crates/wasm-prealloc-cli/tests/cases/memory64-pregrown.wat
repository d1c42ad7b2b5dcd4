;; RUN: rewrite %s -o %t --pages 100000
(module
  (memory (export "memory") i64 1)
  (func (export "size") (result i64) (memory.size)))
