;; RUN: rewrite %s -o %t
(module
  (func (export "id") (param i32) (result i32) (local.get 0)))
