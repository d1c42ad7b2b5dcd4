;; RUN: rewrite %s -o %t --memory-import keep --emulate-from 2 --pages 2
(module
  (import "env" "memory" (memory 2))
  (func (result i32) (memory.grow (i32.const 1))))
