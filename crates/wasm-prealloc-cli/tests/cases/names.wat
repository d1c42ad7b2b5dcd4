;; RUN: rewrite %s -o %t
;; The names of the added items follow the existing names.
(module $named
  (memory $m 1)
  (global $g i32 (i32.const 0))
  (func $f (param $n i32) (result i32) (memory.grow (local.get $n))))
