;; RUN: rewrite %s -o %t
;; The names of what is added follow the names that are there.
(module $named
  (memory $m 1)
  (global $g i32 (i32.const 0))
  (func $f (param $n i32) (result i32) (memory.grow (local.get $n))))
