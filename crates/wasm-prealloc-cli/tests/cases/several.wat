;; RUN: rewrite %s -o %t
;; Each memory has its own counter. The third memory is only measured.
(module
  (memory $a 1) (memory $b i64 2 5) (memory $c (export "c") 3)
  (func (export "a") (param i32) (result i32) (memory.grow $a (local.get 0)))
  (func (export "b") (param i64) (result i64) (memory.grow $b (local.get 0)))
  (func (export "sizes") (result i32 i64 i32)
    (memory.size $a) (memory.size $b) (memory.size $c)))
