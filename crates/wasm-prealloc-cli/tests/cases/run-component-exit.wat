;; RUN: run -q --pages 16 --policy commit-maximum %s
(component
  (import "wasi:cli/exit@0.2.12" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (core module $m
    (import "exit" "exit-with-code" (func $exit (param i32)))
    (memory 1 16)
    (func (export "run") (result i32) (call $exit (i32.const 10)) (i32.const 0)))
  (core func $exit-with-code (canon lower (func $exit "exit-with-code")))
  (core instance $i (instantiate $m (with "exit" (instance
    (export "exit-with-code" (func $exit-with-code))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
