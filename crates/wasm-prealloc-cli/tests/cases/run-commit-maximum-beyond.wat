;; RUN: run --quiet --policy commit-maximum --invoke store %s 131068
(module
  (memory 2 4)
  (func (export "store") (param i32)
    (i32.store (local.get 0) (i32.const 1))
    (i32.store offset=4 (local.get 0) (i32.const 1))))
