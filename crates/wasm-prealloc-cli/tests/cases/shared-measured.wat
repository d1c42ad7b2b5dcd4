;; RUN: rewrite %s -o %t
(module
  (memory (export "memory") 1 2 shared)
  (func (export "size") (result i32) (memory.size)))
