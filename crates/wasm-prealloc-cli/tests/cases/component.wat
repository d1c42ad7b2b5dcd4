;; RUN: rewrite %s -o %t
;; Two core modules with memories of their own: each is rewritten, and all else is copied.
(component
  (type (func))
  (core module $first
    (memory (export "memory") 1 4)
    (func (export "more") (result i32) (memory.grow (i32.const 1))))
  (component
    (core module (memory 2) (func (result i32) (memory.size))))
  (core instance (instantiate $first))
  (@custom "kept" "content"))
