;; RUN: inspect --json %s
(module
  (memory 1)
  (func (export "size") (result i32) (memory.size))
  (data "passive"))
