;; RUN: rewrite %s -o %t --memory-import keep --pages 1 --features all
;; The counter takes 8 pages of a byte.
(module
  (memory (export "memory") 65530 65536 (pagesize 1))
  (func (result i32) (memory.grow (i32.const 1))))
