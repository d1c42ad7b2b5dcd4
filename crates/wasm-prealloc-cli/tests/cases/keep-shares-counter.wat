;; RUN: rewrite %s -o %t --memory-import keep
;; Modules that import this memory count in its last page too.
(module
  (memory (export "memory") 2 10)
  (func (export "size") (result i32) (memory.size))
  (func (export "more") (result i32) (memory.grow (i32.const 1))))
