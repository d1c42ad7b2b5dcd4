;; RUN: rewrite %s -o %t --memory-import keep --emulate-from declared --pages 100
(module
  (import "env" "memory" (memory 2 10))
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
