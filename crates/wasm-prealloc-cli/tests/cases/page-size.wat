;; RUN: rewrite %s -o %t --pages 2 --features all
(module
  (memory 100 200000 (pagesize 1))
  (func (export "more") (param i32) (result i32) (memory.grow (local.get 0))))
