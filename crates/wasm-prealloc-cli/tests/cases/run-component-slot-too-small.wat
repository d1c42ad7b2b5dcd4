;; RUN: run -q --policy commit-maximum --pages 16 --invoke one %s
;; The engine shows the maximum only when the memory is made, and the first core module has started
;; then.
(component
  (core module $starts (func $start unreachable) (start $start))
  (core module $m (memory 1 17) (func (export "one") (result i32) (i32.const 1)))
  (core instance (instantiate $starts))
  (core instance $i (instantiate $m))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))
