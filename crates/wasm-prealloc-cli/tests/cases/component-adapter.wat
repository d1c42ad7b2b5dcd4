;; RUN: rewrite %s -o %t
(component
  (core module $main (memory (export "memory") 17) (func (export "m") (result i32) (memory.grow (i32.const 1))))
  (core module $adapter (import "env" "memory" (memory 0)) (func (export "a") (result i32) (memory.grow (i32.const 1))))
  (core instance $i (instantiate $main))
  (core instance $a (instantiate $adapter (with "env" (instance $i))))
  (func (export "m") (result s32) (canon lift (core func $i "m")))
  (func (export "a") (result s32) (canon lift (core func $a "a"))))
