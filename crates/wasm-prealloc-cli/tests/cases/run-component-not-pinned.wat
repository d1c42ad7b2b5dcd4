;; RUN: run -q --pages 16 --invoke one %s
(component
  (core module $m (memory 16 16))
  (core module $n (memory 1) (func (export "one") (result i32) (i32.const 1)))
  (core instance (instantiate $m))
  (core instance $i (instantiate $n))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))
