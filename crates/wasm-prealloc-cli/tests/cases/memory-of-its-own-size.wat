;; RUN: rewrite %s -o %t --pages 100 --pages 1=100000
(module
  (memory $small 1)
  (memory $large i64 70000)
  (func (export "more") (param i64) (result i64) (memory.grow $large (local.get 0))))
