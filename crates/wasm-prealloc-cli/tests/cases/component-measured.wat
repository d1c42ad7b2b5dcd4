;; RUN: rewrite %s -o %t
(component
  (core module $A (memory (export "memory") 1 100)
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
  (core module $B (import "a" "memory" (memory 1))
    (func (export "size") (result i32) (memory.size)))
  (core instance $a (instantiate $A))
  (core instance $b (instantiate $B (with "a" (instance $a))))
  (func (export "grow") (param "n" s32) (result s32) (canon lift (core func $a "grow")))
  (func (export "size") (result s32) (canon lift (core func $b "size"))))
