;; RUN: inspect %s
(module
  (import "env" "memory" (memory 1))
  (func (result i32) (memory.grow (i32.const 1))))
