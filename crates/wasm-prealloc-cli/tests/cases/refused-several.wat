;; RUN: rewrite %s -o %t
(module (memory 1) (memory 2))
