;; RUN: rewrite %s -o %t --emulate-from heap-base
(module
  (memory 65536 65536)
  (global $__stack_pointer (mut i32) (i32.const 65536))
  (global $__heap_base i32 (i32.const 65537))
  (func (result i32) (memory.grow (i32.const 1))))
