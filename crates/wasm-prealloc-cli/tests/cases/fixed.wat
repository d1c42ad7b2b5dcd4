;; RUN: rewrite %s -o %t
;; No code outside of the module can grow its memory.
(module
  (memory 3 10)
  (func (export "size") (result i32) (memory.size)))
