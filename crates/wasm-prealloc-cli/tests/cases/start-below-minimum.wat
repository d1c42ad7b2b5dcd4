;; RUN: rewrite %s -o %t --emulate-from 1
(module
  (memory 17 100)
  (func (result i32) (memory.grow (i32.const 1))))
