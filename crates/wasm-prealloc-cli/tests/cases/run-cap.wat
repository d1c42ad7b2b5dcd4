;; RUN: run --quiet --policy cap --pages 32 --invoke grow %s 31
(module
  (memory 1)
  (func (export "grow") (param i32) (result i32)
    (i32.add (memory.grow (local.get 0)) (memory.size))))
