;; RUN: rewrite %s -o %t
;; A name section that does not parse is left alone, and so is a producers section.
(module
  (memory 1)
  (func (result i32) (memory.grow (i32.const 1)))
  (@custom "name" "\01\ff")
  (@custom "producers" "\ff"))
