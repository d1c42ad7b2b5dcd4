;; RUN: rewrite %s -o %t --memory-import keep --emulate-from 2
(module
  (import "env" "memory" (memory 0))
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
