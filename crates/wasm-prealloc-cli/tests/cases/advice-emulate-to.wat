;; RUN: rewrite %s -o %t --emulate-to 3
(module
  (memory 5 10)
  (func (result i32) (memory.grow (i32.const 1))))
