;; RUN: rewrite %s -o %t
(module (memory 1 9 (pagesize 1)) (func (result i32) memory.size))
