;; RUN: rewrite %s -o %t
(module
  (memory (export "memory") 1 10)
  (data (i32.const 0x20000) "LIVE")
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "peek") (param i32) (result i32) (i32.load (local.get 0))))
