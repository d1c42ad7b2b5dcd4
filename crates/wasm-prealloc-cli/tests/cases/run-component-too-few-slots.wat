;; RUN: run -q --policy commit-maximum --slots 1 --invoke one %s
;; Its core module is instantiated twice, so it has two memories.
(component
  (core module $m (memory 1 2) (func (export "one") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (core instance $j (instantiate $m))
  (func (export "one") (result u32) (canon lift (core func $i "one"))))
