;; RUN: rewrite %s -o %t
;; A name section or a producers section that does not parse is copied unchanged.
(module
  (memory 1)
  (func (result i32) (memory.grow (i32.const 1)))
  (@custom "name" "\01\ff")
  (@custom "producers" "\ff"))
