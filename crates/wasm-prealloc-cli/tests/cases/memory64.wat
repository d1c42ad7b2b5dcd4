;; RUN: rewrite %s -o %t
(module
  (memory i64 1 100000)
  (func (export "more") (param i64) (result i64) (memory.grow (local.get 0)))
  (func (export "size") (result i64) (memory.size)))
