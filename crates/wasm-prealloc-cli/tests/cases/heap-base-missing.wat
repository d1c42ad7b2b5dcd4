;; RUN: rewrite %s -o %t --emulate-from heap-base
(module
  (memory 65536 65536)
  (func (result i32) (memory.grow (i32.const 1))))
