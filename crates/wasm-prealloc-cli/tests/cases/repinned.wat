;; RUN: rewrite %s -o %t
;; The module was rewritten to 100 pages: its added function contains the cap.
(module
  (memory (export "memory") 100 100)
  (global $pages (mut i32) (i32.const 1))
  (@custom "wasm-prealloc" (after data) "\02\00\01\00\01\00\05\01\64\00\00\00"))
