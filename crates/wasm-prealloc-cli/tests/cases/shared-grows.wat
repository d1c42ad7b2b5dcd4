;; RUN: rewrite %s -o %t
(module
  (memory 1 2 shared)
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
