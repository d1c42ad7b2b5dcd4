;; RUN: run %s --invoke f
(module (func (export "f") (result i32) (i32.const -1)))
