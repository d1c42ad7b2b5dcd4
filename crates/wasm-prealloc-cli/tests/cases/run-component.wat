;; RUN: run -q --pages 16 %s
;; A command of WASI 0.2 whose run fails.
(component
  (core module $m
    (memory 16 16)
    (func (export "run") (result i32) (i32.load8_u (i32.const 1048575)))
    (data (i32.const 1048575) "\01"))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
