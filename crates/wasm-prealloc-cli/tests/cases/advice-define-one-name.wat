;; RUN: rewrite %s -o %t --memory-import define --memory-import-name heap
(module
  (import "env" "first" (memory 2))
  (import "env" "second" (memory 2))
  (func (result i32) (memory.grow (i32.const 1))))
