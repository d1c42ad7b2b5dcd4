;; RUN: rewrite %s -o %t --validate changed
(module (memory 1) (func (result i32) (memory.grow (i32.const 1)) drop i64.const 0))
