;; RUN: rewrite --json %s -o %t
(module
  (memory 1 3)
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
