;; RUN: rewrite %s -o %t
(module (memory 1)  ;; No code outside of the module can grow it.
  (func (export "pages") (result i32) (memory.size))
  (func (export "in_bounds") (param i32) (result i32)  ;; A bounds check.
    (i32.lt_u (local.get 0) (i32.shl (memory.size) (i32.const 16)))))
