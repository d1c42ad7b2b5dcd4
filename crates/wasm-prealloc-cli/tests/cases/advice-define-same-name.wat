;; RUN: rewrite %s -o %t --memory-import define
(module
  (import "env" "memory" (memory 2))
  (import "other" "memory" (memory 2))
  (func (result i32) (memory.grow (i32.const 1))))
