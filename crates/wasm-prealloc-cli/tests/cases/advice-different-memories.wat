;; RUN: rewrite %s -o %t
(component
  (core module $small (memory (export "memory") 1 10))
  (core module $large (memory (export "memory") 2 20))
  (core module $grows
    (import "env" "memory" (memory 1))
    (func (export "grow") (result i32) (memory.grow (i32.const 1))))
  (core instance $s (instantiate $small))
  (core instance $l (instantiate $large))
  (core instance (instantiate $grows (with "env" (instance $s))))
  (core instance (instantiate $grows (with "env" (instance $l)))))
