;; RUN: rewrite %s -o %t
;; The natural minimum is lost: the module is not changed, and a warning is printed.
(module
  (memory 65536 65536)
  (global (export "__heap_base") i32 (i32.const 1048592))
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "size") (result i32) (memory.size)))
