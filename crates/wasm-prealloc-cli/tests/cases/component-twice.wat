;; RUN: rewrite %s -o %t --memory-import keep
;; One module that grows an imported memory is instantiated twice on the same memory.
(component
  (core module $env (memory (export "memory") 1))
  (core module $libc (import "env" "memory" (memory 1))
    (func (export "alloc") (result i32) (memory.grow (i32.const 1))))
  (core instance $e (instantiate $env))
  (core instance $l1 (instantiate $libc (with "env" (instance $e))))
  (core instance $l2 (instantiate $libc (with "env" (instance $e))))
  (func (export "alloc1") (result s32) (canon lift (core func $l1 "alloc")))
  (func (export "alloc2") (result s32) (canon lift (core func $l2 "alloc"))))
