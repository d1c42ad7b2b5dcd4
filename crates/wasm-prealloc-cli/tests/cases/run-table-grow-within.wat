;; RUN: run --quiet --pages 16 --invoke grow %s 65526
(module
  (memory 16 16)
  (table $t 10 funcref)
  (func (export "grow") (param i32) (result i32)
    (table.grow $t (ref.null func) (local.get 0))))
