;; RUN: rewrite %s -o %t --pages 1024
(module
  (type (func (result i32)))
  (memory 2)
  (func (type 0) (memory.grow (i32.const 1))))
