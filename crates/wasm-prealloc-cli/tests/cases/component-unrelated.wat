;; RUN: rewrite %s -o %t
(component
  (core module $env (memory (export "memory") 2))
  (core module $libc (import "env" "memory" (memory 2)) (func (export "alloc") (result i32) (memory.grow (i32.const 1))))
  (core module $other (memory 1) (func (export "g") (result i32) (memory.grow (i32.const 1))))
  (core instance $e (instantiate $env))
  (core instance $l (instantiate $libc (with "env" (instance $e))))
  (core instance $o (instantiate $other)))
