;; RUN: rewrite %s -o %t
(module
  (import "env" "base" (global $base i32))
  (memory (export "memory") 1 10)
  (data (global.get $base) "LIVE"))
