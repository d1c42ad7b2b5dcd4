;; RUN: run --quiet --pages 16 --invoke grow %s 65527
;; The table has 10 elements, and 65,536 are counted in the memory that is needed.
(module
  (memory 16 16)
  (table $t 10 funcref)
  (func (export "grow") (param i32) (result i32)
    (table.grow $t (ref.null func) (local.get 0))))
