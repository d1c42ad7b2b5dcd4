;; RUN: run --pages 16 %s
(module (memory 16 16) (func (result i32)))
