;; RUN: rewrite %s -o %t --growth emulate
(module
  (memory 65536 65536)
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0))))
