;; RUN: rewrite %s -o %t
(module (memory (export "memory") 1)
  (func (export "sum") (param i32 i32) (result i32) (i32.load (local.get 0))))
