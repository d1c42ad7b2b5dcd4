;; RUN: verify %s --deep --pages 3 --pages 1=5
(module
  (memory 3 3)
  (memory 1)
  (func (result i32) (memory.grow (i32.const 1))))
