;; RUN: rewrite %s -o %t --memory-import keep
(module
  (import "env" "memory" (memory 2 10))
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
