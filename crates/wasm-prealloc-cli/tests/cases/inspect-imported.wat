;; RUN: inspect %s
(module
  (import "env" "memory" (memory 1 2 shared))
  (func (export "size") (result i32) (memory.size)))
