;; RUN: run --quiet --policy cap --pages 32 --invoke grow %s 32
(module
  (memory 1 64)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
