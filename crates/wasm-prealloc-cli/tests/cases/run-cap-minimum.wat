;; RUN: run --quiet --policy cap --pages 32 --invoke f %s
(module
  (memory 33)
  (func (export "f")))
