;; RUN: run --quiet --policy commit-maximum --invoke grow %s 5
(module
  (memory 3 8)
  (func (export "grow") (param i32) (result i32 i32 i32)
    (memory.grow (local.get 0))
    (memory.size)
    (memory.grow (i32.const 1))))
