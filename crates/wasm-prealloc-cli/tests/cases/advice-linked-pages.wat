;; RUN: rewrite %s -o %t --pages 100 --pages 1.0=200
(component
  (core module $env (memory (export "memory") 17 50))
  (core module $libc (import "env" "memory" (memory 0))
    (func (result i32) (memory.grow (i32.const 1))))
  (core instance $e (instantiate $env))
  (core instance (instantiate $libc (with "env" (instance $e)))))
