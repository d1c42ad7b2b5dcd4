;; RUN: rewrite %s -o %t --features all
(module
  (type (shared (func (param i32) (result i32))))
  (memory 1 10)
  (func (type 0) (memory.grow (local.get 0))))
