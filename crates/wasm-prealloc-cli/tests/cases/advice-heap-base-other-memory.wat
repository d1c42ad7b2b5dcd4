;; RUN: rewrite %s -o %t --growth emulate
;; A linker places the heap in memory 0.
(module
  (memory 1 2)
  (memory 65536 65536)
  (func (result i32) (memory.grow 1 (i32.const 1))))
