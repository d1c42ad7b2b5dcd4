;; RUN: rewrite %s -o %t
(module
  (memory (export "memory") 2 100)
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "size") (result i32) (memory.size)))
