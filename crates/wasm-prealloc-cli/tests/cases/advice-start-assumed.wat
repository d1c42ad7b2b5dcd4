;; RUN: rewrite %s -o %t --quiet
(module
  (import "env" "memory" (memory 2 10 shared))
  (func (result i32) (memory.grow (i32.const 1))))
