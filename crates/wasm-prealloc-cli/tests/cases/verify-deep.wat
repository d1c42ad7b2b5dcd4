;; RUN: verify %s --deep
(module
  (memory 65536 65536)
  (func (result i32) (memory.grow (i32.const 1))))
