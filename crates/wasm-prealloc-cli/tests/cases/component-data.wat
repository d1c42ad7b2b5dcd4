;; RUN: rewrite %s -o %t --memory-import keep
;; `env` defines a memory of 5 pages that is full of data. `libc` imports it with a smaller minimum,
;; and is the only module that grows it.
(component
  (core module $env (memory (export "memory") 5) (data (i32.const 200000) "precious"))
  (core module $libc (import "env" "memory" (memory 1))
    (func (export "alloc") (result i32) (i32.mul (memory.grow (i32.const 1)) (i32.const 65536))))
  (core instance $e (instantiate $env))
  (core instance $l (instantiate $libc (with "env" (instance $e))))
  (func (export "alloc") (result s32) (canon lift (core func $l "alloc"))))
