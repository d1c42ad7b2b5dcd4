;; RUN: rewrite %s -o %t --memory-import define
(component
  (core module $main (memory (export "memory") 2))
  (core module $adapter
    (import "env" "memory" (memory 1))
    (func (export "grow") (result i32) (memory.grow (i32.const 1))))
  (core instance $m (instantiate $main))
  (core instance (instantiate $adapter (with "env" (instance $m)))))
