;; RUN: inspect %s
(module
  (memory (export "memory") 17)
  (global (export "__data_end") i32 (i32.const 1048600))
  (global (export "__heap_base") i32 (i32.const 1048608))
  (func (export "more") (result i32) (memory.grow (i32.const 1)))
  (func (export "size") (result i32) (memory.size))
  (data (i32.const 1048576) "static data of 24 bytes!"))
