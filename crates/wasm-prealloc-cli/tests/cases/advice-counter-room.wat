;; RUN: rewrite %s -o %t --memory-import keep --emulate-from declared --pages 4
(module
  (import "env" "memory" (memory 4 5))
  (func (result i32) (memory.grow (i32.const 1))))
