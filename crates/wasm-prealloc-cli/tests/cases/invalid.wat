;; RUN: rewrite %s -o %t
(module (memory 1) (func (result i32) i64.const 0))
