;; RUN: rewrite %s -o %t
(module
  (memory (export "memory") 1 10)
  (func (export "size") (result i32) (memory.size)))
