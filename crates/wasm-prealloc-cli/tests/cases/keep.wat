;; RUN: rewrite %s -o %t --growth keep
(module
  (memory 2 100)
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0))))
