;; RUN: rewrite %s -o %t --quiet --growth keep
(module (memory 1) (func (drop (memory.grow (i32.const 1)))))
