;; RUN: rewrite %s -o %t
(module
  (import "env" "before" (func))
  (import "env" "memory" (memory 1 2))
  (import "env" "behind" (global i32))
  (func (export "size") (result i32) (memory.size)))
