;; RUN: run -q --pages 16 --fuel 1000 %s
(component
  (core module $m
    (memory 16 16)
    (func (export "run") (result i32) (loop $forever (br $forever)) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
