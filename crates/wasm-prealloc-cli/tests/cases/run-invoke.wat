;; RUN: run -q --pages 16 --invoke add %s 40 2
(module (memory 16 16)
  (func (export "add") (param i32 i64) (result i64 i32)
    (i64.add (i64.extend_i32_u (local.get 0)) (local.get 1))
    (i32.load8_u (i32.const 1048575)))
  (data (i32.const 1048575) "\07"))
