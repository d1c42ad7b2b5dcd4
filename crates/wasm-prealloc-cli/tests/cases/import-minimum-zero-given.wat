;; RUN: rewrite %s -o %t --memory-import keep --emulate-from 17
(module
  (import "env" "memory" (memory 0))
  (func (export "alloc") (result i32)
    (i32.shl (memory.grow (i32.const 1)) (i32.const 16)))
  (func (export "size") (result i32) (memory.size)))
