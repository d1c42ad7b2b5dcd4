;; RUN: rewrite %s -o %t --memory-import keep
;; The module was rewritten before, and counts the growth of its memory in a global.
(module
  (memory (export "memory") 65536 65536)
  (global $pages (mut i32) (i32.const 1))
  (@custom "wasm-prealloc" (after data) "\02\00\01\00\01\00\05\01\64\00\01\00"))
