;; RUN: rewrite %s -o %t --json --growth keep
(module (memory 1) (func (drop (memory.grow (i32.const 1)))))
