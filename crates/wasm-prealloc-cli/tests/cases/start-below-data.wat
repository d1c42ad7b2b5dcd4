;; RUN: rewrite %s -o %t --emulate-from 1
(module
  (memory 4 4)
  (func (result i32) (memory.grow (i32.const 1)))
  (data (i32.const 65536) "x"))
