;; RUN: rewrite %s -o %t --memory-import keep --emulate-from 17
;; Modules that import this memory count its growth from page 17.
(module
  (memory (export "memory") 20)
  (data (i32.const 1200000) "precious"))
