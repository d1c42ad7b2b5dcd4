;; RUN: rewrite %s -o %t
(module (import "env" "memory" (memory 18 16384 shared)) (func (export "a") (result i32) (memory.grow (i32.const 1))) (func (export "s") (result i32) (memory.size)))
