;; RUN: rewrite %s -o %t --memory-import define
(module
  (import "env" "memory" (memory 1))
  (func (export "memory") (result i32) (memory.grow (i32.const 1))))
