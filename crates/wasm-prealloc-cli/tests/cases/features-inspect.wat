;; RUN: inspect %s
(module (memory 1 9 (pagesize 1)) (func (result i32) memory.size))
