;; RUN: run -q --pages 16 --invoke one %s
(component
  (import "local:other/thing@1.0.0" (instance (export "f" (func))))
  (core module $m (memory 16 16) (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))
