;; RUN: rewrite %s -o %t
(module
  (memory (export "memory") 1 10)
  (data (i32.const 0x20000) "LIVE"))
