;; RUN: rewrite %s -o %t --json
(module (memory 1) (func (result i32) i64.const 0))
