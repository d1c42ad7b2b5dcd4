;; RUN: run --json --invoke f %s
(module (func (export "f") (result i32) (i32.const 7)))
