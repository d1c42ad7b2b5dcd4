;; RUN: rewrite %s -o %t
(module
  (memory 1)
  (func (export "get") (param i32) (result i32) (i32.load (local.get 0)))
  (data (i32.const 8) "\40\00\3f\00"))
