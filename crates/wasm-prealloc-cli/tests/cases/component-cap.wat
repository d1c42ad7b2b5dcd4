;; RUN: rewrite %s -o %t --memory-import keep
(component
  (core module $env (memory (export "memory") 1 3))
  (core module $libc (import "env" "memory" (memory 1))
    (func (export "alloc") (result i32) (memory.grow (i32.const 10))))
  (core instance $e (instantiate $env))
  (core instance $l (instantiate $libc (with "env" (instance $e))))
  (func (export "alloc") (result s32) (canon lift (core func $l "alloc"))))
