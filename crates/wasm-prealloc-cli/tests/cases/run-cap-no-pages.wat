;; RUN: run --policy cap --invoke f %s
(module
  (memory 1)
  (func (export "f")))
