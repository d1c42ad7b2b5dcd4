;; RUN: rewrite %s -o %t --emulate-from 1
;; `libc` alone grows the memory, and the data of `env` lies above page 1.
(component
  (core module $env (memory (export "memory") 65536 65536) (data (i32.const 150000) "precious"))
  (core module $libc (import "env" "memory" (memory 0))
    (func (result i32) (memory.grow (i32.const 1))))
  (core instance $e (instantiate $env))
  (core instance (instantiate $libc (with "env" (instance $e)))))
