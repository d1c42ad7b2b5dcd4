;; RUN: rewrite %s -o %t --emulate-from heap-base
(module
  (memory 65536 65536)
  (global (export "__heap_base") i32 (i32.const 1048592))
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0)))
  (data (i32.const 1048576) "0123456789abcdef"))
