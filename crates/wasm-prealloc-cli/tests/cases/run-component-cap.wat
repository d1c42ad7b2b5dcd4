;; RUN: run -q --policy cap --pages 4 --invoke grow %s 3
;; Grows to the cap, and beyond it.
(component
  (core module $m
    (memory 1)
    (func (export "grow") (param i32) (result i32)
      (drop (memory.grow (local.get 0)))
      (i32.add (i32.mul (memory.size) (i32.const 10)) (memory.grow (i32.const 1)))))
  (core instance $i (instantiate $m))
  (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow"))))
