;; RUN: rewrite %s -o %t --memory-import define
(module (import "env" "memory" (memory 2 10)) (func (export "memory") (result i32) (memory.grow (i32.const 3))) )
