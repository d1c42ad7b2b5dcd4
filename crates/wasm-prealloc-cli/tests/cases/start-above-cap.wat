;; RUN: rewrite %s -o %t --emulate-from 11
(module
  (memory 1 10)
  (func (result i32) (memory.grow (i32.const 1))))
