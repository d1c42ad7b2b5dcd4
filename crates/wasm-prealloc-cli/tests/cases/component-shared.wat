;; RUN: rewrite %s -o %t --memory-import keep
;; Both modules grow one memory, and two counters would allocate the same pages twice.
(component
  (core module $main
    (memory (export "memory") 1)
    (func (export "more") (result i32) (memory.grow (i32.const 1))))
  (core module $adapter
    (import "env" "memory" (memory 0))
    (func (export "more") (result i32) (memory.grow (i32.const 1))))
  (core instance $m (instantiate $main))
  (core instance (instantiate $adapter (with "env" (instance $m)))))
