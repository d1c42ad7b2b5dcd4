;; RUN: rewrite %s -o %t
;; The memory cannot grow, before and after.
(module
  (memory 16 16)
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "size") (result i32) (memory.size)))
