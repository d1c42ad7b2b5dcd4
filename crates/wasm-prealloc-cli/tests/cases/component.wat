;; RUN: rewrite %s -o %t
;; Two core modules, each with a memory: both are rewritten, and everything else is copied.
(component
  (type (func))
  (core module $first
    (memory (export "memory") 1 4)
    (func (export "more") (result i32) (memory.grow (i32.const 1))))
  (component
    (core module (memory 2) (func (result i32) (memory.size))))
  (core instance (instantiate $first))
  (@custom "kept" "content"))
