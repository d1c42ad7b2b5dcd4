;; RUN: run -q --policy commit-maximum --slots 1 --invoke one %s
;; One of its core modules is not instantiated, so it has one memory.
(component
  (core module $unused (memory 1 2))
  (core module $m (memory 1 2) (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))
