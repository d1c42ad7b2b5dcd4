;; RUN: rewrite %s -o %t --memory-import keep --emulate-from 2
(module
  (import "env" "memory" (memory 1))
  (data (i32.const 200000) "above"))
