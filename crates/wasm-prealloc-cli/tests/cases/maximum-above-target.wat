;; RUN: rewrite %s -o %t --pages 64
(module
  (memory 2 4096)
  (func (result i32) (memory.grow (i32.const 1))))
